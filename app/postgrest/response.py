"""Filtering of PostgREST's responses: allowed headers, and errors that reveal no other data."""

import re
from typing import Any

import orjson

from app.errors import Unavailable
from app.postgrest.connection import UpstreamConnection

RETURNED_HEADERS = frozenset(
    b"allow content-length content-range content-type etag preference-applied retry-after"
    b" www-authenticate".split()
)
# Errors whose details and hint describe only the request: its syntax, its range or its number of
# rows. With any other code they may name other relations, constraints or rows.
# Source: https://docs.postgrest.org/en/v12/references/errors.html
HARMLESS = {
    f"PGRST{number}"
    for number in (*range(100, 104), 105, 108, 111, 112, *range(114, 121), 122, 123, 124, 126, 128,
                   *range(301, 304))
}  # fmt: skip
# Outages for which PostgREST does not answer 503: no free connection in its pool (504), keys not
# reloaded from a lost database (500), connection lost during a query (400 without a code).
OUTAGES = {"PGRST003", "PGRST300", ""}

# The query was cancelled while its client still waits: by an operator, or by the gateway, whose
# signal for an abandoned query came too late. Nothing was done, and the request can be repeated.
CANCELLED = "canceling statement due to user request"

# Corrected statuses: PostgREST answers 500 for a view that cannot be written, and 400 for a row
# that a view's check option refuses, which is a row of another ESCO.
STATUSES = {"55000": 405, "44000": 403}

# Errors quote the value that they are about, which may be as long as the body.
MOST_ERROR_BYTES = 64 * 2**10
MOST_ERROR_CHARACTERS = 1000
ERROR_CODE = re.compile(rb'"code":"([A-Z0-9]+)"')


def answer_headers(answer: UpstreamConnection, prefix: bytes) -> list[tuple[bytes, bytes]]:
    """Return the headers to send; URLs in them start with `prefix`, and the schema is flows."""
    pairs = []
    for name, value in answer.headers:
        if name in RETURNED_HEADERS:
            pairs.append((name, value))
        elif name in (b"location", b"content-location"):
            pairs.append((name, prefix + value))
        elif name == b"content-profile":
            pairs.append((name, b"flows"))
    return pairs


async def cleaned_error(answer: UpstreamConnection) -> tuple[int, bytes]:
    """Read PostgREST's error; return its status, and its body without others' data.

    Unavailable if PostgREST itself cannot serve requests.
    """
    raw = b""
    while (piece := await answer.read()) and len(raw) <= MOST_ERROR_BYTES:
        raw += piece
    if len(raw) > MOST_ERROR_BYTES:
        # The rest is not read: only a value of the caller's own makes an error that long.
        raw = _shortened(raw)
    try:
        error = orjson.loads(raw)
        code = str(error["code"])
    except (orjson.JSONDecodeError, TypeError, KeyError):
        if answer.status >= 500:
            raise Unavailable("PostgREST cannot serve right now.") from None
        return answer.status, raw  # responses to HEAD and OPTIONS have no body to clean
    if answer.status == 503 or code in OUTAGES:
        raise Unavailable("PostgREST has no connection to the database right now.")
    if error.get("message") == CANCELLED:
        raise Unavailable("The query was cancelled.")
    if code not in HARMLESS and code != "P0001" and not code.startswith("PT"):
        error |= {"details": None, "hint": None}
    error |= {name: _cut(error.get(name)) for name in ("message", "details", "hint")}
    return STATUSES.get(code, answer.status), orjson.dumps(error)


def _cut(text: Any) -> Any:
    """Return a text without what is beyond `MOST_ERROR_CHARACTERS`."""
    if isinstance(text, str) and len(text) > MOST_ERROR_CHARACTERS:
        return text[:MOST_ERROR_CHARACTERS] + " …"
    return text


def _shortened(raw: bytes) -> bytes:
    """Return an error of the same code whose message is not the long one."""
    code = ERROR_CODE.search(raw)
    return orjson.dumps(
        {
            "code": code[1].decode() if code else "22000",
            "details": None,
            "hint": None,
            "message": "A value of the request is invalid, and too long to be shown",
        }
    )
