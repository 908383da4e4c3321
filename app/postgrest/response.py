"""PostgREST's answers on their way out: allowed headers, and errors that tell nothing of others."""

import orjson

from app.errors import Unavailable
from app.postgrest.connection import UpstreamConnection

RETURNED_HEADERS = frozenset(
    b"allow content-length content-range content-type etag preference-applied retry-after"
    b" www-authenticate".split()
)
# Errors whose details and hint speak of the request alone: how it was parsed, which range or how
# many rows it asked for. Every other code may name another relation, constraint or row.
# Source: https://docs.postgrest.org/en/v12/references/errors.html
HARMLESS = {
    f"PGRST{number}"
    for number in (*range(100, 104), 105, 108, 111, 112, *range(114, 121), 122, 123, 124, 126, 128,
                   *range(301, 304))
}  # fmt: skip
# Outages that PostgREST answers with another status than 503: none free in its pool (504), keys
# not read again from a database that went away (500), connection lost in a query (400, no code).
OUTAGES = {"PGRST003", "PGRST300", ""}

# Somebody ended the query while its client still waits: an operator, or the gateway itself, which
# ends queries whose clients left and may be late by a moment. Nothing was done; it can be repeated.
CANCELLED = "canceling statement due to user request"

# Statuses that PostgREST gets wrong: a view that cannot be written (500), and a row that a view's
# check option keeps out (400), which is a row of another ESCO and refused as row security does.
STATUSES = {"55000": 405, "44000": 403}


def answer_headers(answer: UpstreamConnection, prefix: bytes) -> list[tuple[bytes, bytes]]:
    """Return the pairs to send; addresses are put under `prefix`, the schema is called flows."""
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
    """Read PostgREST's error; return its status and body without what tells of others.

    Unavailable is raised where PostgREST itself cannot serve.
    """
    raw = b""
    while piece := await answer.read():
        raw += piece
    try:
        error = orjson.loads(raw)
        code = str(error["code"])
    except (orjson.JSONDecodeError, TypeError, KeyError):
        if answer.status >= 500:
            raise Unavailable("PostgREST cannot serve right now.") from None
        return answer.status, raw  # HEAD has no body to clean, and OPTIONS none to begin with
    if answer.status == 503 or code in OUTAGES:
        raise Unavailable("PostgREST has no connection to the database right now.")
    if error.get("message") == CANCELLED:
        raise Unavailable("The query was cancelled.")
    if code not in HARMLESS and code != "P0001" and not code.startswith("PT"):
        error |= {"details": None, "hint": None}
    return STATUSES.get(code, answer.status), orjson.dumps(error)
