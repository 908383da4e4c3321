"""The caller as a route's parameter, and what a route asks of it."""

from ipaddress import ip_address
from typing import Annotated

from fastapi import Depends, Request

from app.auth.bearer import bearer_token
from app.auth.clients import Actor
from app.auth.services import AuthServicesDep
from app.auth.tokens import OPERATOR, TENANT_ROLES
from app.db.principal import Principal
from app.errors import Forbidden
from app.request_state import request_state
from app.settings import Settings


async def authenticate(request: Request, services: AuthServicesDep) -> Principal:
    """Return the caller; a token that was verified before routing is not verified again."""
    caller = request_state(request.scope).caller
    return caller or services.verifier.verify(bearer_token(request.scope["headers"]))


Caller = Annotated[Principal, Depends(authenticate)]


def client_address(request: Request, settings: Settings) -> str:
    """Where a request comes from; X-Forwarded-For is believed from trusted proxies only."""
    address = request.client.host if request.client else "unknown"
    # Some proxies append to the caller's line and others add a line: read together they are one.
    lines = ",".join(request.headers.getlist("x-forwarded-for"))
    hops = [hop.strip() for hop in lines.split(",")]
    while address in settings.trusted_proxies and hops and hops[-1]:
        try:
            address = str(ip_address(hops.pop()))
        except ValueError:
            break
    return address


async def _administrator(request: Request, services: AuthServicesDep, caller: Caller) -> Actor:
    # A role that reads every ESCO has none of its own: it must not pass for an operator.
    if "admin" not in caller.scopes or caller.role not in TENANT_ROLES | {OPERATOR}:
        raise Forbidden("This needs a token with the scope admin.")
    address = client_address(request, services.settings)
    return Actor(caller.client_id, address, None if caller.role == OPERATOR else caller.esco)


Administrator = Annotated[Actor, Depends(_administrator)]


async def _operator(actor: Administrator) -> Actor:
    if actor.esco is not None:
        raise Forbidden("This is for the platform's operators.")
    return actor


Operator = Annotated[Actor, Depends(_operator)]
