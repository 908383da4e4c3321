"""Long-lived objects that authentication uses, and the dependency that gives them to routes."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from app.auth.identity import IdentityVerifier
from app.auth.keyring import Keyring
from app.auth.throttle import Throttle
from app.auth.tokens import TokenVerifier
from app.db.session import Pool
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class AuthServices:
    """The part of `request.app.state.services` that this package uses; see app/app_state.py.

    `token_pool` is for `/auth` alone, so that reading and writing data delays no token.
    """

    settings: Settings
    pool: Pool
    token_pool: Pool
    keys: Keyring
    verifier: TokenVerifier
    throttle: Throttle
    identity: IdentityVerifier


async def auth_services(request: Request) -> AuthServices:
    """Return the services of the process; a coroutine for the reason given in app/app_state.py."""
    services: AuthServices = request.app.state.services
    return services


AuthServicesDep = Annotated[AuthServices, Depends(auth_services)]
