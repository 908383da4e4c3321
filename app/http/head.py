"""HEAD on every route that answers GET: the same response without its body (RFC 9110 §9.3.2)."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadAsGet:
    """Answers HEAD by the route of GET; the server leaves out the body.

    It is for FastAPI's routes, which know only the methods that they declare. Routes below `native`
    declare HEAD, because they can answer it with less work.
    """

    def __init__(self, app: ASGIApp, *, native: str) -> None:
        self._app = app
        self._native = native

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; a 405 that allows GET allows HEAD as well."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_allowing_head(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 405:
                message["headers"] = [_with_head(*header) for header in message["headers"]]
            await send(message)

        # A copy, because the server looks at the method to leave out the body.
        asked = scope["method"] == "HEAD" and not scope["path"].startswith(self._native)
        inner = dict(scope, method="GET") if asked else scope
        await self._app(inner, receive, send_allowing_head)


def _with_head(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    methods = [method.strip() for method in value.split(b",")]
    if name.lower() == b"allow" and b"GET" in methods and b"HEAD" not in methods:
        return name, b", ".join([*methods, b"HEAD"])
    return name, value
