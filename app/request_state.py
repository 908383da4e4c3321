"""The gateway's own state of one HTTP request, kept in the ASGI scope from the first layer on."""

from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.types import Scope

from app.db.principal import Principal

_KEY = "flows.request"


@dataclass(slots=True)
class RequestState:
    """Facts that one layer finds out and another needs; `abort` closes the connection at once."""

    request_id: str
    abort: Callable[[], None] | None = None
    # Pairs that are added to the response's head, whoever answers.
    response_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    # Set where the token was verified before routing: on /rest/v1 and /v1.
    token: str | None = None
    caller: Principal | None = None
    # The kind of resource, for metrics, where FastAPI's routing does not tell it.
    route_template: str | None = None
    # Seconds until PostgREST's response began.
    upstream_seconds: float | None = None
    # Filters that the path of a /v1 route sets, by name.
    path_filters: dict[str, list[str]] = field(default_factory=dict)


def begin_request(scope: Scope, request_id: str) -> RequestState:
    """Put a new state into the scope, and return it."""
    abort = scope.get("state", {}).get("abort")  # from app/http/protocol.py
    scope[_KEY] = state = RequestState(request_id, abort)
    return state


def request_state(scope: Scope) -> RequestState:
    """Return the state of the scope's request; KeyError outside of the gateway's layers."""
    state: RequestState = scope[_KEY]
    return state
