"""Routes that remember what they have validated, for clients that ask the same again and again."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import wraps
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from app.auth.deps import authenticate
from app.energy.context import RequestContext
from app.energy.parameters import Presented
from app.request_state import request_state

# Requests that are remembered, and the longest of them in bytes: about 10 MB in all.
MOST_REQUESTS = 2000
LONGEST = 2000
Endpoint = Callable[..., Awaitable[Response]]
# Method, path and query of a request.
Asked = tuple[str, bytes, bytes]


@dataclass(frozen=True, slots=True)
class Validated:
    """The validated parts of a request, which depend on its URL alone."""

    endpoint: Endpoint
    query: Presented
    path_filters: dict[str, list[str]]


_known: OrderedDict[Asked, Validated] = OrderedDict()


class RememberingRoute(APIRoute):
    """A route whose endpoint takes `context` and `query`.

    FastAPI validates a URL once; the caller of each request is verified each time.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of requests."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            asked = _asked(request)
            known = _known.get(asked)
            if known is None:
                return await handler(request)
            _known.move_to_end(asked)
            services = request.app.state.services
            caller = await authenticate(request, services)
            context = RequestContext(request, services, caller, known.path_filters)
            return await known.endpoint(context=context, query=known.query)

        return handle


def remembering(endpoint: Endpoint) -> Endpoint:
    """Return an endpoint that remembers its query for a `RememberingRoute`."""

    @wraps(endpoint)
    async def remember(context: RequestContext, query: Presented) -> Response:
        response = await endpoint(context=context, query=query)
        asked = _asked(context.request)
        if len(asked[1]) + len(asked[2]) <= LONGEST:
            path_filters = request_state(context.request.scope).path_filters
            _known[asked] = Validated(endpoint, query, path_filters)
            if len(_known) > MOST_REQUESTS:
                _known.popitem(last=False)
        return response

    return remember


def _asked(request: Request) -> Asked:
    scope = request.scope
    return scope["method"], scope["path"].encode(), scope["query_string"]
