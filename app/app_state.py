"""The services of a gateway process: opened at its start, closed at its end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Annotated

import httpx
from fastapi import Depends, Request

from app.auth.keyring import AuthState, Keyring, follow_state
from app.auth.keys import KeyFolder, SigningKey
from app.auth.services import AuthServices
from app.auth.throttle import Throttle
from app.auth.tokens import TokenVerifier
from app.db.session import create_pool, database_url
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class Services(AuthServices):
    """The long-lived objects that routes share; `request.app.state.services`."""

    postgrest: httpx.AsyncClient


@asynccontextmanager
async def open_services(
    settings: Settings, keys: Keyring, verifier: TokenVerifier
) -> AsyncIterator[Services]:
    """Open the services of a gateway process; the database may become available later."""
    pool = create_pool(settings.database)

    watched = KeyFolder(settings.key_folder)

    def private_keys() -> list[SigningKey]:
        # A key rotation on this machine adds a file.
        if settings.signing_key is None and (found := watched.changed()):
            keys.add(found)
        return keys.private

    def update(state: AuthState) -> None:
        keys.update(state)
        verifier.update(state)

    follower = asyncio.create_task(
        follow_state(database_url(settings.database), private_keys, update)
    )
    async with httpx.AsyncClient(base_url=settings.postgrest.url, timeout=10) as postgrest:
        await pool.open(wait=False)
        try:
            yield Services(settings, pool, keys, verifier, Throttle(), postgrest)
        finally:
            follower.cancel()
            with suppress(asyncio.CancelledError):
                await follower
            await pool.close()


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


# A coroutine although it awaits nothing: FastAPI runs plain functions in a thread, which would cost
# more than the call itself.
ServicesDep = Annotated[Services, Depends(_services)]
