"""What one gateway process holds for its lifetime, opened together and closed together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from app.auth.keys import SigningKey
from app.auth.tokens import TokenVerifier
from app.database import Pool, create_pool
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class Services:
    """The long-lived objects that routes share; `request.app.state.services`."""

    settings: Settings
    pool: Pool
    postgrest: httpx.AsyncClient
    signing_key: SigningKey
    verifier: TokenVerifier


@asynccontextmanager
async def open_services(
    settings: Settings, signing_key: SigningKey, verifier: TokenVerifier
) -> AsyncIterator[Services]:
    """Open everything a gateway process needs; the database may be down and come later."""
    pool = create_pool(settings.database)
    async with httpx.AsyncClient(base_url=settings.postgrest.url, timeout=10) as postgrest:
        await pool.open(wait=False)
        try:
            yield Services(settings, pool, postgrest, signing_key, verifier)
        finally:
            await pool.close()
