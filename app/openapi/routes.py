"""`/openapi.json` and the two pages that show it: `/docs` (Swagger UI) and `/redoc`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.responses import FileResponse, RedirectResponse
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.routing import Mount

from app.app_state import ServicesDep
from app.auth.deps import authenticate
from app.db.principal import Principal
from app.errors import Unprocessable
from app.http.compression import negotiate_coding, tagged
from app.http.conditional import is_not_modified
from app.http.files import CompressedFiles
from app.openapi import names, site
from app.openapi.document import Frame
from app.openapi.source import PUBLIC_ROLE, Documents
from app.settings import DocsSettings, Settings

STATIC = Path(__file__).parent / "static"
# Package and folder of the Swagger UI and ReDoc that fastapi-offline ships.
VENDOR = ("fastapi_offline", "static")
# The pages load nothing from other origins and send nothing to them. Both need inline styles, and
# ReDoc's search runs in a worker created from a blob.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; worker-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}

router = APIRouter(include_in_schema=False)


def install(app: FastAPI, settings: Settings) -> None:
    """Add the routes; call it last, because the document contains the routes added before."""
    app.include_router(router)
    files = CompressedFiles(directory=STATIC, packages=[VENDOR])
    app.router.routes.append(Mount("/docs/assets", app=files))
    site.install(app, PAGE_HEADERS)
    app.state.docs_headers = _docs_headers(settings.docs)
    app.state.documents = Documents(
        Frame(
            base_url=settings.base_url,
            version=app.version,
            own=app.openapi(),
            secured=frozenset(_secured(app)),
            sign_in=_sign_in(settings.docs),
        )
    )


def name_operation(route: APIRoute) -> str:
    """Return the operation id of a route, such as `createToken`; its form is named after it."""
    return names.route_operation_id(min(route.methods or {"get"}).lower(), route.path_format)


def _sign_in(docs: DocsSettings) -> dict[str, Any] | None:
    """Return the security scheme of people, with what a page needs to get their tokens."""
    if docs.issuer is None:
        return None
    return {
        "type": "openIdConnect",
        "openIdConnectUrl": f"{docs.issuer.rstrip('/')}/.well-known/openid-configuration",
        "description": "The provider at which people sign in. Its ID token is exchanged at "
        "`/auth/token` (RFC 8693) for the bearer token that requests need.",
        "x-flows-client-id": docs.client_id,
        "x-flows-app": docs.app,
    }


def _docs_headers(docs: DocsSettings) -> dict[str, str]:
    """Return the headers of /docs, whose page may also ask the issuer."""
    if docs.issuer is None:
        return PAGE_HEADERS
    policy = f"{PAGE_HEADERS['Content-Security-Policy']}; connect-src 'self' {docs.origin}"
    return PAGE_HEADERS | {"Content-Security-Policy": policy}


def _secured(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Yield (method, path) of every route that needs an authenticated caller."""
    for route in iter_route_contexts(app.routes):
        if isinstance(route.original_route, APIRoute) and _asks_for_caller(route.dependant):
            yield from ((method.lower(), str(route.path_format)) for method in route.methods or ())


def _asks_for_caller(dependant: Dependant) -> bool:
    return dependant.call is authenticate or any(map(_asks_for_caller, dependant.dependencies))


@router.get("/")
async def root() -> RedirectResponse:
    """Redirect to the page on which the API can be tried."""
    return RedirectResponse("/docs")


@router.get("/openapi.json")
async def openapi(request: Request, services: ServicesDep) -> Response:
    """Return the OpenAPI document for the caller's token, or for a read client without a token.

    `?tags=energy,meters` leaves out the operations of other tags.
    """
    documents: Documents = request.app.state.documents
    caller = await _caller_if_any(request, services)
    role, scopes = (caller.role, caller.scopes) if caller else (PUBLIC_ROLE, frozenset())
    document = await documents.get(services, role, scopes)
    if tags := _asked_tags(request):
        document = await documents.get_small(document, tags)
    document = await documents.get_sampled(services, document, caller)
    headers = {
        "ETag": document.etag,
        "Cache-Control": "private, no-cache" if caller else "public, no-cache",
        "Vary": "Authorization, apikey, Accept-Encoding",
    }
    if document.stale:
        headers |= {"Warning": '110 - "Response is Stale"', "X-Flows-Stale": "true"}
    if is_not_modified(request, document.etag):
        return Response(status_code=304, headers=headers)
    if coding := negotiate_coding(request.headers.raw):
        headers |= {
            "ETag": tagged(document.etag.encode(), coding).decode(),
            "Content-Encoding": coding,
        }
    body = await document.encoded(coding)
    return Response(body, media_type="application/json", headers=headers)


def _asked_tags(request: Request) -> frozenset[str]:
    """Return the tags in the query; Unprocessable for one that there is not."""
    asked = ",".join(request.query_params.getlist("tags"))
    tags = frozenset(tag.strip() for tag in asked.split(",") if tag.strip())
    if unknown := tags - names.TAGS.keys():
        known = ", ".join(names.TAGS)
        raise Unprocessable(f"tags: {', '.join(sorted(unknown))} is none of: {known}")
    return tags


async def _caller_if_any(request: Request, services: ServicesDep) -> Principal | None:
    sent = "authorization" in request.headers or "apikey" in request.headers
    return await authenticate(request, services) if sent else None


@router.get("/docs")
async def docs(request: Request) -> FileResponse:
    """Serve Swagger UI, for trying requests."""
    return FileResponse(STATIC / "docs.html", headers=request.app.state.docs_headers)


@router.get("/redoc")
async def redoc() -> FileResponse:
    """Serve ReDoc, for reading."""
    return FileResponse(STATIC / "redoc.html", headers=PAGE_HEADERS)
