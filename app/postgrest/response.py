"""Filtering of PostgREST's responses: allowed headers, and errors that reveal no other data."""

import re
from dataclasses import dataclass
from typing import Any

import orjson

from app.errors import COLLISION, COLLISIONS, Unavailable
from app.postgrest.connection import UpstreamConnection
from app.postgrest.filter_hint import filter_hint

# PostgREST's Vary is not among them: the gateway's own (app/http/rate_limit.py) lists all it names.
RETURNED_HEADERS = frozenset(
    b"allow content-length content-range content-type etag preference-applied proxy-status"
    b" retry-after warning www-authenticate".split()
)
# Headers that only SQL sets (`response.headers`); any others of its, cookies above all, never pass.
SQL_HEADERS = frozenset(b"content-disposition content-language last-modified link".split())
# Directives of a Cache-Control that would let others have a response to a token.
SHARED = re.compile(rb"^(public|private|s-maxage\b.*|proxy-revalidate)$", re.IGNORECASE)
# Errors whose details and hint describe only the request: its syntax, its range or its number of
# rows, or the foreign keys and functions among which it has to choose. With any other code they may
# name other relations, constraints or rows.
# Source: https://docs.postgrest.org/en/v16/references/errors.html
HARMLESS = {
    f"PGRST{number}"
    for number in (*range(100, 104), 105, *range(108, 113), *range(114, 121), 122, 123, 124, 126,
                   128, 201, 203, *range(301, 304))
}  # fmt: skip
# Errors of which one member repeats the request or is a fixed advice, while the other names what
# the caller may not know: the most similar relation, or the candidates.
HARMLESS_DETAILS = {"PGRST200", "PGRST202"}
HARMLESS_HINTS = {"42883", "42725"}
# The advice for a name that does not exist, instead of a hint that may name what others use. The
# codes differ by version: 12 asks PostgreSQL for tables and columns that later ones look up.
UNKNOWN_NAMES = {"42P01", "42703", "PGRST200", "PGRST202", "PGRST204", "PGRST205"}
NAMES_HINT = "GET /openapi.json with this token lists the names that it may use"
TIMEOUT_HINT = "Ask for less: a narrower filter, fewer columns or a shorter period"
# Errors whose texts name the schema in which the relations are; clients know it as flows.
NAMING = re.compile("PGRST|42|55|0A")
INNER_SCHEMA = re.compile(r"(?<![\w.])api\.(?=[\w\"])|(?<=schema )(['\"]?)api\1(?!\w)")
# Constraints of a series have the names of its partitions and chunks, which are everybody's.
BROKEN = re.compile("23")
STORAGE_NAMES = (
    (re.compile(r'"_hyper_\d+_\d+_chunk"'), "of the series"),
    (re.compile(r'"\d+_\d+_(\w+)"'), r'"\1"'),
    (re.compile(r'"(\w+?)_(?:19|2[01])\d\d(_\w+)?"'), r'"\1\2"'),
)
# Outages for which PostgREST does not answer 503: no free connection in its pool (504), keys not
# reloaded from a lost database (500), connection lost during a query (400 without a code).
OUTAGES = {"PGRST003", "PGRST300", ""}

# The query was cancelled while its client still waits: by an operator, or by the gateway, whose
# signal for an abandoned query came too late. Nothing was done, and the request can be repeated.
CANCELLED = "canceling statement due to user request"

# The code of a status that has a single one, for a HEAD whose answer does not tell it.
CODES = {416: "PGRST103"}
# Corrected statuses: PostgREST answers 500 for a view that cannot be written and for a query that
# takes too long, 503 for one whose files would be too large, and 400 for a row that a view's check
# option refuses, which is a row of another ESCO.
NOT_WRITABLE, READ_ONLY = "55000", "25006"
TOO_SLOW, TOO_LARGE = "57014", "53400"
STATUSES = {NOT_WRITABLE: 405, TOO_SLOW: 504, TOO_LARGE: 422, "44000": 403}

# The methods of a function, of one that writes, of a view that cannot be written, and of a table.
CALLS, CHANGING_CALLS = b"GET, HEAD, OPTIONS, POST", b"OPTIONS, POST"
READS, WRITES = b"GET, HEAD, OPTIONS", b"DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"

# Errors quote the value that they are about, which may be as long as the body.
MOST_ERROR_BYTES = 64 * 2**10
MOST_ERROR_CHARACTERS = 1000
MALFORMED = "PGRST100"
RANGE_OF_ROWS = re.compile(rb"([0-9]{1,18})-([0-9]{1,18})/")
SAFE_CODE = re.compile("[A-Za-z0-9]{1,32}")
ERROR_CODE = re.compile(rb'"code":"([A-Z0-9]+)"')


@dataclass(frozen=True, slots=True)
class CleanedError:
    """An error of PostgREST as it is sent; `code` is empty if neither body nor header tells it."""

    status: int
    code: str
    body: bytes


def answer_headers(answer: UpstreamConnection, prefix: bytes) -> list[tuple[bytes, bytes]]:
    """Return the headers to send; paths in them start with `prefix`, and the schema is flows."""
    pairs = []
    for name, value in answer.headers:
        if name in RETURNED_HEADERS or name in SQL_HEADERS:
            pairs.append((name, value))
        elif name in (b"location", b"content-location"):
            path = value.startswith(b"/") and not value.startswith(b"//")  # two slashes name a host
            pairs.append((name, prefix + value if path else value))
        elif name == b"content-profile":
            pairs.append((name, b"flows"))
        elif name == b"cache-control":
            pairs.append((name, _private(value)))
    return pairs


def counted_rows(pairs: list[tuple[bytes, bytes]]) -> int:
    """Return the number of rows that Content-Range tells; 0 if it tells none."""
    for name, value in pairs:
        if name == b"content-range" and (found := RANGE_OF_ROWS.match(value)):
            return int(found[2]) - int(found[1]) + 1
    return 0


def error_headers(pairs: list[tuple[bytes, bytes]], code: str) -> list[tuple[bytes, bytes]]:
    """Return the headers of an error, with the Proxy-Status that PostgREST sends since 16."""
    if SAFE_CODE.fullmatch(code) and not any(name == b"proxy-status" for name, _ in pairs):
        return [*pairs, (b"proxy-status", f"PostgREST; error={code}".encode())]
    return pairs


def allow_header(path: str, code: str) -> tuple[bytes, bytes]:
    """Return the Allow of a 405 (RFC 9110 §15.5.6), which PostgREST does not send.

    `path` is that of the request, and `code` the error's.
    """
    if path.startswith("/rest/v1/rpc/"):
        return b"allow", CHANGING_CALLS if code == READ_ONLY else CALLS
    return b"allow", READS if code == NOT_WRITABLE else WRITES


def _private(cache_control: bytes) -> bytes:
    """Return a Cache-Control of SQL for the caller alone."""
    directives = [one.strip() for one in cache_control.split(b",")]
    return b", ".join([b"private", *(one for one in directives if not SHARED.match(one))])


async def cleaned_error(answer: UpstreamConnection, query: bytes = b"") -> CleanedError:
    """Read PostgREST's error to a request with this query; return it without others' data.

    Unavailable if PostgREST itself cannot serve requests.
    """
    raw = b""
    while (piece := await answer.read()) and len(raw) <= MOST_ERROR_BYTES:
        raw += piece
    if len(raw) > MOST_ERROR_BYTES:
        # The rest is not read: only a value of the caller's own makes an error that long.
        raw = _shortened(raw, _named_code(answer.headers))
    try:
        error = orjson.loads(raw)
        code = str(error["code"])
    except (orjson.JSONDecodeError, TypeError, KeyError):
        # Responses to HEAD and OPTIONS have no body; since 16 a header names the error.
        code = _named_code(answer.headers) or CODES.get(answer.status, "")
        if answer.status >= 500 and code not in STATUSES:
            _raise_if_repeatable(answer.status, code or None)
            raise Unavailable("PostgREST cannot serve right now.") from None
        return CleanedError(STATUSES.get(code, answer.status), code, raw)
    _raise_if_repeatable(answer.status, code)
    if error.get("message") == CANCELLED:
        raise Unavailable("The query was cancelled.")
    if code not in HARMLESS and code != "P0001" and not code.startswith("PT"):
        error |= {
            "details": error.get("details") if code in HARMLESS_DETAILS else None,
            "hint": error.get("hint") if code in HARMLESS_HINTS else _own_hint(code),
        }
    if code == MALFORMED and not error.get("hint"):
        error["hint"] = filter_hint(query)
    error |= {name: _shown(error.get(name), code) for name in ("message", "details", "hint")}
    return CleanedError(STATUSES.get(code, answer.status), code, orjson.dumps(error))


def _raise_if_repeatable(status: int, code: str | None) -> None:
    """Raise Unavailable for an error after which the same request may succeed."""
    if code in COLLISIONS:
        raise Unavailable(COLLISION, retry_after=1)
    if (status == 503 and code != TOO_LARGE) or code in OUTAGES:
        raise Unavailable("PostgREST has no connection to the database right now.")


def _named_code(headers: list[tuple[bytes, bytes]]) -> str:
    """Return the code in a Proxy-Status header (RFC 9209), or an empty text."""
    named = next((value for name, value in headers if name == b"proxy-status"), b"")
    return named.partition(b"error=")[2].partition(b";")[0].decode("latin-1")


def _own_hint(code: str) -> str | None:
    """Return the gateway's own advice for an error whose hint is not shown."""
    if code in UNKNOWN_NAMES:
        return NAMES_HINT
    return TIMEOUT_HINT if code in (TOO_SLOW, TOO_LARGE) else None


def _shown(text: Any, code: str) -> Any:
    """Return a text of an error without names of the inner schema, and not too long."""
    if not isinstance(text, str):
        return text
    if NAMING.match(code):
        text = INNER_SCHEMA.sub(_as_flows, text)
    if BROKEN.match(code):
        for part, series in STORAGE_NAMES:
            text = part.sub(series, text)
    return _cut(text)


def _as_flows(found: re.Match[str]) -> str:
    quote = found[1]
    return "flows." if quote is None else f"{quote}flows{quote}"


def _cut(text: Any) -> Any:
    """Return a text without what is beyond `MOST_ERROR_CHARACTERS`."""
    if isinstance(text, str) and len(text) > MOST_ERROR_CHARACTERS:
        return text[:MOST_ERROR_CHARACTERS] + " …"
    return text


def _shortened(raw: bytes, named: str) -> bytes:
    """Return an error of the same code, by its header or its text, without the long message."""
    code = ERROR_CODE.search(raw)
    return orjson.dumps(
        {
            "code": named or (code[1].decode() if code else "22000"),
            "details": None,
            "hint": None,
            "message": "A value of the request is invalid, and too long to be shown",
        }
    )
