"""The routes of `/v1`: reports over everything that the caller may see, or over one part of it.

Each path (circuit, meter, property, site, ESCO) has the same reports; its own filter applies in
addition to those of the query.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.responses import Response

from app.energy import context as contexts
from app.energy import cursors
from app.energy.context import ContextDep, RequestContext
from app.energy.examples import answers
from app.energy.formats import MEDIA_TYPES
from app.energy.intervals import Granularity, Intervals, split
from app.energy.models import (
    Alerts,
    Balance,
    CircuitList,
    Completeness,
    Energy,
    EscoList,
    Latest,
    MeterList,
    Peak,
    Profile,
    PropertyList,
    SiteList,
)
from app.energy.parameters import (
    MOST_ROWS,
    WIDEST,
    WIDEST_SCAN,
    AlertsQuery,
    BalanceQuery,
    EnergyQuery,
    LatestQuery,
    PeakQuery,
    Presented,
    ProfileQuery,
    ScanQuery,
    Window,
    unique,
)
from app.energy.remembered import remembering
from app.energy.reports.alerts import AlertsReport
from app.energy.reports.balance import BalanceReport
from app.energy.reports.completeness import BY, CompletenessReport
from app.energy.reports.energy import EnergyReport
from app.energy.reports.latest import LatestReport
from app.energy.reports.peak import PeakReport
from app.energy.reports.profile import ProfileReport
from app.energy.reports.things import ThingsReport
from app.energy.response import ReportResponse

TEXT = {"type": "string"}
COLUMNS = {"$ref": "#/components/schemas/Columns"}
MOMENT = {"type": "string", "format": "date-time"}
HEADERS = {
    "ETag": ("Moves with the data, the mapping and what is asked.", TEXT),
    "Data-As-Of": ("Changes up to then are in: `data_as_of`.", MOMENT),
    "Next-Changes": ("`next_changes`: send it as `changes` next time.", TEXT),
    "Available-From": ("Start of the first half-hour that there is: `available_from`.", MOMENT),
    "Available-To": ("End of the last half-hour that there is: `available_to`.", MOMENT),
    "Link": ("The next page, rel=next, where there is one (RFC 8288).", TEXT),
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "JSON, or rows alone: CSV, NDJSON, Parquet, Arrow (`format`, `Accept`).",
        "headers": {
            name: {"description": said, "schema": schema}
            for name, (said, schema) in HEADERS.items()
        },
        "content": {
            media: {"schema": COLUMNS if name == "columns" else TEXT}
            for name, media in MEDIA_TYPES.items()
            if name != "json"
        },
    },
    304: {"description": "Nothing changed since the answer whose ETag is in If-None-Match."},
}


def _answers(body: type[BaseModel]) -> dict[str, Any]:
    """Return what a route with this body is described by, with examples."""
    told, shown = RESPONSES[200], answers(body)
    content = {media: of | shown.get(media, {}) for media, of in told["content"].items()}
    content["application/json"] = shown["application/json"]
    return {"response_model": body, "responses": {200: told | {"content": content}}}


reads = APIRouter(tags=["energy"], responses=RESPONSES)


@reads.get("/energy", summary="Energy per group and interval", **_answers(Energy))
@remembering
async def energy(context: ContextDep, query: Annotated[EnergyQuery, Query()]) -> Response:
    """Sum the half-hours of the caller's circuits, in kWh; import and export stay separate."""
    scope, parts = context.scope(query), _intervals(context, query, query.granularity)
    request = context.report_request(
        "energy", query, parts.first, parts.last, query.granularity, by=query.group_by
    )
    request.format.check_pages({"limit": query.limit, "cursor": query.cursor})
    after = None
    if query.cursor is not None:
        after = cursors.read(query.cursor, request.fingerprint, context.services.keys)
    limit = query.limit or (MOST_ROWS if request.format.name == "json" else None)
    by = unique(query.group_by)
    return ReportResponse(request, EnergyReport(query, scope, by, parts, after, limit))


@reads.get("/balance", summary="Generation, consumption and the grid", **_answers(Balance))
@remembering
async def balance(context: ContextDep, query: Annotated[BalanceQuery, Query()]) -> Response:
    """Compare generation with consumption: energy used locally, and energy from and to the grid.

    In each half-hour, `generation` is the sum of what a group's circuits export, `consumption` the
    sum of what they import, and `self_consumption` the smaller of the two; `from_grid = consumption
    - self_consumption` and `to_grid = generation - self_consumption`. Longer intervals and totals
    are sums of half-hours. `self_consumption_ratio = self_consumption / generation` and
    `self_sufficiency_ratio = self_consumption / consumption`; a ratio is null where its divisor is
    zero. Each group is balanced by itself: each ESCO by default, each site with `group_by=site`.
    """
    scope, parts = context.scope(query), _intervals(context, query, query.granularity)
    request = context.report_request(
        "balance", query, parts.first, parts.last, query.granularity, by=query.group_by
    )
    return ReportResponse(request, BalanceReport(query, scope, unique(query.group_by), parts))


@reads.get("/profile", summary="The average day", **_answers(Profile))
@remembering
async def profile(context: ContextDep, query: Annotated[ProfileQuery, Query()]) -> Response:
    """Return mean and quantiles of a group's kWh for each half-hour of the local day.

    Half-hours without a reading are left out of the mean. When the clocks go back, both of the
    repeated half-hours count, so `expected_intervals` is one more there.
    """
    scope, parts = context.scope(query), _half_hours(context, query, "the average day")
    request = context.report_request("profile", query, parts.first, parts.last, by=query.group_by)
    return ReportResponse(request, ProfileReport(query, scope, unique(query.group_by), parts))


@reads.get("/peak", summary="The highest half-hours", **_answers(Peak))
@remembering
async def peak(context: ContextDep, query: Annotated[PeakQuery, Query()]) -> Response:
    """Rank a group's half-hours by mean power in kW (twice their kWh); the earlier wins a tie.

    Half-hours with no energy in the direction are left out.
    """
    scope, parts = context.scope(query), _half_hours(context, query, "the highest half-hours")
    request = context.report_request(
        "peak", query, parts.first, parts.last, query.direction, by=query.group_by
    )
    return ReportResponse(request, PeakReport(query, scope, unique(query.group_by), parts))


@reads.get("/completeness", summary="Missing half-hours per register", **_answers(Completeness))
@remembering
async def completeness(context: ContextDep, query: Annotated[ScanQuery, Query()]) -> Response:
    """List the gaps in the half-hours of each register while it is mapped to a circuit.

    The future has no gaps: a period that ends in the future is examined up to now.
    """
    scope, parts = context.scope(query), _half_hours(context, query, "completeness").past()
    request = context.report_request("completeness", query, parts.first, parts.last, by=BY)
    return ReportResponse(request, CompletenessReport(query, scope, BY, parts))


@reads.get("/latest", summary="Last reading and balance of each meter", **_answers(Latest))
@remembering
async def latest(context: ContextDep, query: Annotated[LatestQuery, Query()]) -> Response:
    """Return each meter's newest half-hour, its counters, and its prepayment balance in pounds."""
    scope, zone = context.scope(query), query.zone()
    request = context.report_request("latest", query, None, None)
    return ReportResponse(request, LatestReport(zone, scope))


@reads.get("/alerts", summary="Meters and registers that need attention", **_answers(Alerts))
@remembering
async def alerts(context: ContextDep, query: Annotated[AlertsQuery, Query()]) -> Response:
    """List low balances, silent meters, wrong clocks, missing readings and stuck registers.

    Each has the time since which it is so. What is missing is looked at for registers in use that
    are mapped to a circuit, of active meters; single gaps are in `/completeness`.
    """
    scope, _ = context.scope(query), query.zone()
    # Of no period, as the lists.
    request = context.report_request("alerts", query, 0, 0, by=())
    return ReportResponse(request, AlertsReport(query, scope))


lists = APIRouter(prefix="/v1", tags=["energy"], responses=RESPONSES)


@lists.get("/circuits", summary="The circuits", **_answers(CircuitList))
@remembering
async def circuits(context: ContextDep, query: Annotated[Presented, Query()]) -> Response:
    """List circuits with their sites, and the time for which they have half-hours."""
    return _list(context, "circuits", query)


@lists.get("/meters", summary="The meters", **_answers(MeterList))
@remembering
async def meters(context: ContextDep, query: Annotated[Presented, Query()]) -> Response:
    """List meters with their sites and properties, and the time for which they have half-hours."""
    return _list(context, "meters", query)


@lists.get("/properties", summary="The properties", **_answers(PropertyList))
@remembering
async def properties(context: ContextDep, query: Annotated[Presented, Query()]) -> Response:
    """List properties with their sites."""
    return _list(context, "properties", query)


@lists.get("/sites", summary="The sites", **_answers(SiteList))
@remembering
async def sites(context: ContextDep, query: Annotated[Presented, Query()]) -> Response:
    """List sites."""
    return _list(context, "sites", query)


@lists.get("/escos", summary="The ESCOs", **_answers(EscoList))
@remembering
async def escos(context: ContextDep, query: Annotated[Presented, Query()]) -> Response:
    """List the ESCOs that the token sees: a tenant's own."""
    return _list(context, "escos", query)


def _list(context: RequestContext, kind: str, query: Presented) -> Response:
    # Of no period, so that no reading moves its version: its content does.
    request = context.report_request(kind, query, 0, 0, by=())
    return ReportResponse(request, ThingsReport(kind, query.zone()))


def _intervals(context: RequestContext, query: Window, granularity: Granularity) -> Intervals:
    return _split(context, query, granularity, WIDEST[granularity], granularity)


def _half_hours(context: RequestContext, query: Window, what: str) -> Intervals:
    return _split(context, query, "PT30M", WIDEST_SCAN, what)


def _split(
    context: RequestContext,
    query: Window,
    granularity: Granularity,
    widest: tuple[int, int],
    what: str,
) -> Intervals:
    """Cut the period into intervals; Unprocessable if it is too long."""
    query.check(*widest, what, narrow=context.scope(query).narrow)
    return split(granularity, query.zone(), query.period_from, query.period_to)


PATHS: dict[str, Callable[..., Awaitable[None]] | None] = {
    "/v1": None,
    "/v1/circuits/{id}": contexts.of_circuit,
    "/v1/meters/{serial}": contexts.of_meter,
    "/v1/properties/{id}": contexts.of_property,
    "/v1/sites/{code_or_id}": contexts.of_site,
    "/v1/escos/{code}": contexts.of_esco,
}

# HEAD answers like GET without the body (RFC 9110 §9.3.2), so it is not documented twice.
for group in (reads, lists):
    for route in [route for route in group.routes if isinstance(route, APIRoute)]:
        path = route.path.removeprefix(group.prefix)
        group.add_api_route(path, route.endpoint, methods=["HEAD"], include_in_schema=False)

router = APIRouter()
router.include_router(lists)
for path, dependency in PATHS.items():
    router.include_router(
        reads, prefix=path, dependencies=[Depends(dependency)] if dependency else []
    )
