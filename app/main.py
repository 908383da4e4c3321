"""The gateway's application: `create_app(settings)` assembles the packages."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.routing import Mount

from app import __version__
from app.app_state import open_services
from app.auth import admin, oauth, people
from app.auth.keyring import Keyring
from app.auth.keys import load_keys
from app.auth.refusals import OAuthError
from app.auth.tokens import TokenVerifier, issue_own
from app.auth.usage import UsageCounts
from app.energy import routes as energy
from app.energy.remembered import RememberedRequests
from app.http import middleware, problems, supabase
from app.http.concurrency import ConcurrencyLimits
from app.http.gateway import Gateway
from app.http.head import HeadAsGet
from app.http.root import RootRelations
from app.http.worker_window import WorkerCounts
from app.imports import routes as imports
from app.imports.importer import Importer
from app.monitoring import health, metrics
from app.monitoring.health import PROBE_ROLE
from app.monitoring.registry import Metrics
from app.monitoring.templates import RouteTemplates
from app.openapi import routes as openapi
from app.postgrest.proxy import RestProxy
from app.settings import Settings
from app.tracing import Tracing


def create_app(settings: Settings, counts: WorkerCounts | None = None) -> Gateway:
    """Build the ASGI application; no connection is opened before its lifespan starts.

    `counts` are those of the gateway's workers, where there are several.
    """
    keys = Keyring(load_keys(settings.key_folder, settings.signing_key))
    verifier = TokenVerifier(settings.base_url)
    counters = Metrics(settings.workers, settings.base_url, names_escos=settings.metrics == "token")
    usage = UsageCounts()
    tracing = Tracing()
    concurrency = ConcurrencyLimits(
        settings.limits,
        counters.rate_limited.labels("concurrent").inc,
        of_postgrest=settings.postgrest.pool * len(settings.postgrest.urls),
        of_pool=settings.database.pool_max,
        workers=settings.workers,
    )
    rest = RestProxy(
        settings, counters, lambda: issue_own(keys.current(), settings.base_url, PROBE_ROLE)
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tracing.open()
        async with open_services(settings, keys, verifier) as services:
            app.state.services = services
            app.state.probe = health.Probe(services)
            rest.start(services.replica)
            counters.watch_database(services.pool)
            if services.replica:
                counters.watch_replica(services.replica)
            counters.begin()
            if settings.metrics != "off":
                counters.database.open(services.probe_pool)
            usage.open(services.probe_pool)
            app.state.importer = importer = Importer(settings, services.probe_pool)
            try:
                yield
            finally:
                await importer.close()
                await usage.close()
                await counters.close()
                await rest.close()
                await tracing.close()

    app = FastAPI(
        title="Flows",
        summary="Prepayment smart meters of energy communities.",
        version=__version__,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=openapi.name_operation,
    )
    app.state.metrics = counters
    problems.install(app)
    app.include_router(health.router)
    app.include_router(metrics.router)
    app.include_router(oauth.router)
    app.add_exception_handler(OAuthError, oauth.respond_with_error)
    app.include_router(admin.router)
    app.include_router(people.router)
    app.include_router(energy.router)
    app.include_router(supabase.router)
    app.include_router(imports.router)
    openapi.install(app, settings)
    counters.templates = RouteTemplates(_templates(app))
    routes = RememberedRequests(HeadAsGet(app, native="/v1/"), app)
    layers = middleware.wrap(
        routes, settings, rest, verifier, counters, usage, tracing, concurrency, counts
    )
    if settings.postgrest.at_root:
        layers = RootRelations(layers, ["/rest/v1", *_templates(app)])
    return Gateway(app, layers)


def _templates(app: FastAPI) -> Iterator[str]:
    """Yield the template of each route, with everything below a mounted folder as one."""
    for route in iter_route_contexts(app.routes):
        if isinstance(route.original_route, Mount):
            yield f"{route.original_route.path}/{{path:path}}"
        else:
            yield str(route.path_format)
