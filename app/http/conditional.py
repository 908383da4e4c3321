"""Conditional requests: If-None-Match."""

from starlette.requests import Request


def is_not_modified(request: Request, etag: str) -> bool:
    """Return whether a GET or HEAD is to be answered 304: If-None-Match names `etag`, or is `*`.

    `etag` is the quoted tag of the current representation; weak tags compare alike. Source: RFC
    9110 §13.1.2.
    """
    if request.method not in ("GET", "HEAD"):
        return False
    lines = ",".join(request.headers.getlist("if-none-match"))
    named = {tag.strip().removeprefix("W/") for tag in lines.split(",")}
    return not named.isdisjoint((etag, "*"))
