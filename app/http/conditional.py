"""Conditional requests: If-None-Match."""

from collections.abc import Iterable

from starlette.requests import Request


def is_not_modified(request: Request, etag: str) -> bool:
    """Return whether to answer a GET or HEAD with 304: If-None-Match contains `etag`, or is `*`.

    `etag` is the quoted tag of the current representation; weak tags are compared like strong
    ones. Source: RFC 9110 §13.1.2.
    """
    if request.method not in ("GET", "HEAD"):
        return False
    return not asked_tags(request.headers.raw).isdisjoint((etag.encode(), b"*"))


def asked_tags(headers: Iterable[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """Return the tags in If-None-Match, weak ones as strong, or its `*`."""
    lines = [value for name, value in headers if name == b"if-none-match"]
    return frozenset(tag.strip().removeprefix(b"W/") for line in lines for tag in line.split(b","))
