"""The gateway's state of an HTTP request, kept in the ASGI scope from the first layer on."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.types import Scope

from app.db.principal import Principal

_KEY = "flows.request"


@dataclass(slots=True)
class RequestState:
    """Values that one layer sets and another reads; `abort` closes the connection at once."""

    request_id: str
    abort: Callable[[], None] | None = None
    # Headers added to every response.
    response_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    # Set if the token is verified before routing: on /rest/v1 and /v1.
    token: str | None = None
    caller: Principal | None = None
    # Rows of the response, or that a write changed, as far as they are known.
    rows: int = 0
    # Seconds until PostgREST's response started.
    upstream_seconds: float | None = None
    # Called when PostgREST's response starts, and no query of the request runs any more.
    on_answer: Callable[[], None] | None = None
    # Seconds for which the places of the request rest after it.
    rest_seconds: float = 0.0
    # Filters set by the path of a /v1 route: name → values.
    path_filters: dict[str, list[str]] = field(default_factory=dict)


def new_request_id() -> str:
    """Return an id for a request that brought none."""
    return os.urandom(12).hex()


def begin_request(scope: Scope, request_id: str) -> RequestState:
    """Create the state of a request, put it into the scope and return it."""
    abort = scope.get("state", {}).get("abort")  # from app/http/protocol.py
    scope[_KEY] = state = RequestState(request_id, abort)
    return state


def request_state(scope: Scope) -> RequestState:
    """Return the state of a request; KeyError outside of the gateway's layers."""
    state: RequestState = scope[_KEY]
    return state
