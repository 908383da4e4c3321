"""Conditional requests: If-None-Match."""

from starlette.requests import Request


def is_not_modified(request: Request, etag: str) -> bool:
    """Return whether to answer a GET or HEAD with 304: If-None-Match contains `etag`, or is `*`.

    `etag` is the quoted tag of the current representation; weak tags are compared like strong
    ones. Source: RFC 9110 §13.1.2.
    """
    if request.method not in ("GET", "HEAD"):
        return False
    lines = ",".join(request.headers.getlist("if-none-match"))
    named = {tag.strip().removeprefix("W/") for tag in lines.split(",")}
    return not named.isdisjoint((etag, "*"))
