"""The gateway as one ASGI application: FastAPI's routes inside the layers around them."""

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send


class Gateway:
    """The ASGI application: the routes, behind the layers that every request passes."""

    def __init__(self, routes: FastAPI, layers: ASGIApp) -> None:
        self.state = routes.state
        self.routes = routes.routes
        self._layers = layers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._layers(scope, receive, send)
