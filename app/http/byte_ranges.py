"""Requests for a part of a file: Range and If-Range."""

import re

from starlette.requests import Request

from app.errors import UnsatisfiableRange

# One range: from a byte to another or to the end, or the last bytes. No file has more digits.
ONE_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


def asked_range(request: Request, etag: str, size: int) -> slice | None:
    """Return the bytes that a GET asks for, or None for the whole file.

    UnsatisfiableRange if they lie behind its end. A request for several ranges, one that cannot be
    read, and one whose If-Range names another `etag` get the whole. Source: RFC 9110 §14.
    """
    found = ONE_RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
    if found is None or request.method != "GET" or found.groups() == ("", ""):
        return None
    if request.headers.get("if-range", etag) != etag:
        return None
    first, last = found.groups()
    if not first:
        start, stop = max(size - int(last), 0), size
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= size or start >= stop:
        raise UnsatisfiableRange(size)
    return slice(start, stop)
