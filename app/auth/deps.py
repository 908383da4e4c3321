"""The caller as a route's parameter."""

from typing import Annotated

from fastapi import Depends, Request

from app.auth.principal import Principal
from app.deps import ServicesDep
from app.errors import Unauthorized


def _caller(request: Request, services: ServicesDep) -> Principal:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        scheme, token = "bearer", request.headers.get("apikey", "")
    if not token:
        raise Unauthorized()
    return services.verifier.verify(token)


Caller = Annotated[Principal, Depends(_caller)]
