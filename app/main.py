"""The gateway's application: `create_app(settings)` puts the rooms together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from app import errors
from app.ops import health
from app.services import open_services
from app.settings import Settings


def create_app(settings: Settings) -> FastAPI:
    """Build the ASGI application; nothing is opened before its lifespan starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_services(settings) as services:
            app.state.services = services
            yield

    app = FastAPI(
        title="Flows",
        summary="Prepayment smart meters of energy communities.",
        version="0.1.0",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    errors.install(app)
    app.include_router(health.router)
    return app
