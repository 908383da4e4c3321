"""Dependencies that give a route its caller and check the caller's rights."""

from functools import lru_cache
from ipaddress import ip_address, ip_network
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
    """Return the caller, whose token may have been verified before routing already."""
    caller = request_state(request.scope).caller
    return caller or services.verifier.verify(bearer_token(request.scope["headers"]))


Caller = Annotated[Principal, Depends(authenticate)]


def client_address(request: Request, settings: Settings) -> str:
    """Return the IP address a request comes from.

    X-Forwarded-For is believed only as far as trusted proxies have written it.
    """
    address = request.client.host if request.client else "unknown"
    # Some proxies append to the header they received and others add a second one: join them.
    lines = ",".join(request.headers.getlist("x-forwarded-for"))
    hops = [hop.strip() for hop in lines.split(",")]
    while _is_within(address, settings.trusted_proxies) and hops and hops[-1]:
        try:
            address = str(ip_address(hops.pop()))
        except ValueError:
            break
    return address


@lru_cache(maxsize=1024)
def _is_within(address: str, networks: tuple[str, ...]) -> bool:
    try:
        found = ip_address(address)
    except ValueError:  # a client that has no address, as on a socket
        return False
    return any(found in ip_network(network) for network in networks)


async def _administrator(request: Request, services: AuthServicesDep, caller: Caller) -> Actor:
    # Other roles read all ESCOs and have no ESCO either; they must not be taken for operators.
    if "admin" not in caller.scopes or caller.role not in TENANT_ROLES | {OPERATOR}:
        raise Forbidden("This needs a token with the scope admin.")
    address = client_address(request, services.settings)
    if caller.role == OPERATOR:
        return Actor(caller.subject, address)
    return Actor(caller.people[-1], address, caller.esco, caller.scopes)


Administrator = Annotated[Actor, Depends(_administrator)]


async def _operator(actor: Administrator) -> Actor:
    if actor.esco is not None:
        raise Forbidden("Only the platform's operators may do this.")
    return actor


Operator = Annotated[Actor, Depends(_operator)]
