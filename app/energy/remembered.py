"""Requests whose URL was validated before, for clients that ask the same again and again."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps

from fastapi import FastAPI, Request
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.auth.deps import authenticate
from app.energy.context import RequestContext
from app.energy.parameters import Presented
from app.request_state import request_state

# Requests that are remembered, and the longest of them in bytes: about 10 MB in all.
MOST_REQUESTS = 2000
LONGEST = 2000
Endpoint = Callable[..., Awaitable[Response]]
# Method, path and query of a request.
Asked = tuple[str, str, bytes]


@dataclass(frozen=True, slots=True)
class Validated:
    """The validated parts of a request, which depend on its URL alone."""

    endpoint: Endpoint
    query: Presented
    path_filters: dict[str, list[str]]


_known: OrderedDict[Asked, Validated] = OrderedDict()


class RememberedRequests:
    """Answers requests whose URL is remembered; others are left to `app`, which has the routes.

    They pass by FastAPI, which would find the route and validate the URL again. The caller of each
    request is verified all the same.
    """

    def __init__(self, app: ASGIApp, routes: FastAPI) -> None:
        self._app = app
        self._routes = routes
        # A crash is left to the layers around, as FastAPI would.
        handlers = {
            error: handler
            for error, handler in routes.exception_handlers.items()
            if error is not Exception
        }
        self._remembered = ExceptionMiddleware(self._answer, handlers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        is_known = scope["type"] == "http" and _asked(scope) in _known
        await (self._remembered if is_known else self._app)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = _asked(scope)
        known = _known[asked]
        _known.move_to_end(asked)
        scope["app"] = self._routes
        services = self._routes.state.services
        request = Request(scope, receive, send)
        caller = await authenticate(request, services)
        context = RequestContext(request, services, caller, known.path_filters)
        response = await known.endpoint(context=context, query=known.query)
        await response(scope, receive, send)


def remembering(endpoint: Endpoint) -> Endpoint:
    """Return an endpoint with the parameters `context` and `query` that remembers its query."""

    @wraps(endpoint)
    async def remember(context: RequestContext, query: Presented) -> Response:
        response = await endpoint(context=context, query=query)
        scope = context.request.scope
        asked = _asked(scope)
        if len(asked[1]) + len(asked[2]) <= LONGEST:
            _known[asked] = Validated(endpoint, query, request_state(scope).path_filters)
            if len(_known) > MOST_REQUESTS:
                _known.popitem(last=False)
        return response

    return remember


def _asked(scope: Scope) -> Asked:
    return scope["method"], scope["path"], scope["query_string"]
