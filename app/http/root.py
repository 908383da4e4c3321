"""`/{relation}` and `/rpc/{function}` at the root, for programs whose base URL has no /rest/v1."""

import re
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

RELATION = re.compile(r"/(?:rpc/)?[A-Za-z_][A-Za-z0-9_]*")
REST_PREFIX = "/rest/v1"


class RootRelations:
    """Passes requests for relations and functions at the root on as those below /rest/v1.

    The first segments of the gateway's own paths are never taken for a relation.
    """

    def __init__(self, app: ASGIApp, own_paths: Iterable[str]) -> None:
        self._app = app
        self._own = frozenset(path.split("/")[1] for path in own_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if (
            scope["type"] == "http"
            and RELATION.fullmatch(scope["path"])
            and scope["path"].split("/")[1] not in self._own
        ):
            raw: bytes = scope["raw_path"]
            path = REST_PREFIX + scope["path"]
            scope = {**scope, "path": path, "raw_path": REST_PREFIX.encode() + raw}
        await self._app(scope, receive, send)
