"""The services of a gateway process: opened at its start, closed at its end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Annotated

import httpx
from fastapi import Depends, Request

from app.auth.identity import IdentityVerifier
from app.auth.keyring import AuthState, Keyring, follow_state
from app.auth.keys import KeyFolder, SigningKey
from app.auth.outbound import Outbound
from app.auth.services import AuthServices
from app.auth.throttle import Throttle
from app.auth.tokens import TokenVerifier
from app.db.replica import Replica
from app.db.session import Pool, create_pool, direct_url
from app.settings import Settings

PROBE_CONNECTIONS = 2
# A worker waits so long for keys and revocations before it accepts; then its answers say why.
READY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Services(AuthServices):
    """The long-lived objects that routes share; `request.app.state.services`."""

    # Of each PostgREST, for what the gateway itself asks.
    postgrests: list[httpx.AsyncClient]
    replica_postgrests: list[httpx.AsyncClient]
    replica: Replica | None
    # For /ready, /metrics and the state of imports, none of which waits for data.
    probe_pool: Pool


@asynccontextmanager
async def open_services(
    settings: Settings, keys: Keyring, verifier: TokenVerifier
) -> AsyncIterator[Services]:
    """Open the services of a gateway process; the database may become available later."""
    pool = create_pool(settings.database)
    # Of their own, so that whoever occupies all connections for data stops neither.
    token_pool = create_pool(settings.database, settings.database.token_pool_max)
    probe_pool = create_pool(settings.database, PROBE_CONNECTIONS)

    watched = KeyFolder(settings.key_folder)

    def private_keys() -> list[SigningKey]:
        # A key rotation on this machine adds a file.
        if settings.signing_key is None and (found := watched.changed()):
            keys.add(found)
        return keys.private

    known = asyncio.Event()

    def update(state: AuthState) -> None:
        keys.update(state)
        verifier.update(state)
        known.set()

    replica = Replica(settings) if settings.replica.database_url else None
    followers = [follow_state(direct_url(settings.database), private_keys, update)]
    if replica:
        followers.append(replica.follow())
    running = [asyncio.create_task(follower) for follower in followers]
    async with AsyncExitStack() as clients:
        postgrests, replica_postgrests = [
            [
                await clients.enter_async_context(httpx.AsyncClient(base_url=url, timeout=10))
                for url in urls
            ]
            for urls in (settings.postgrest.urls, settings.replica.urls)
        ]
        # A proxy from the environment would connect to addresses that nobody has checked.
        issuers = await clients.enter_async_context(
            httpx.AsyncClient(trust_env=False, timeout=settings.issuers.seconds)
        )
        outbound = Outbound(issuers, settings.issuers.private_networks, settings.issuers.seconds)
        identity = IdentityVerifier(outbound, settings.issuers.hmac_secrets)
        pools = [pool, token_pool, probe_pool, *([replica.pool] if replica else [])]
        for each in pools:
            await each.open(wait=False)
        try:
            if settings.workers > 1:
                # A worker takes requests from others, who would not have refused them.
                with suppress(TimeoutError):
                    await asyncio.wait_for(known.wait(), READY_SECONDS)
            throttle = Throttle(settings.limits)
            yield Services(
                settings,
                pool,
                token_pool,
                keys,
                verifier,
                throttle,
                identity,
                postgrests,
                replica_postgrests,
                replica,
                probe_pool,
            )
        finally:
            for task in running:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            for each in pools:
                await each.close()


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


# A coroutine although it awaits nothing: FastAPI runs plain functions in a thread, which would cost
# more than the call itself.
ServicesDep = Annotated[Services, Depends(_services)]
