"""The routes of `/v1`: reports over everything that the caller may see, or over one part of it.

Each path (circuit, meter, property, site, ESCO) has the same reports; its own filter applies in
addition to those of the query.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.routing import APIRoute
from starlette.responses import Response

from app.energy import cursors, deps
from app.energy.answer import Answer
from app.energy.balance import BalanceReport
from app.energy.completeness import BY, CompletenessReport
from app.energy.deps import Asked, AskedDep
from app.energy.energy import EnergyReport
from app.energy.intervals import Granularity, Intervals, split
from app.energy.latest import LatestReport
from app.energy.models import Balance, Completeness, Energy, Latest, Peak, Profile
from app.energy.parameters import (
    MOST_ROWS,
    WIDEST,
    WIDEST_SCAN,
    BalanceQuery,
    EnergyQuery,
    LatestQuery,
    PeakQuery,
    ProfileQuery,
    ScanQuery,
    Window,
    unique,
)
from app.energy.peak import PeakReport
from app.energy.profile import ProfileReport

MOMENT = {"type": "string", "format": "date-time"}
HEADERS = {
    "ETag": ("Moves with the data, the mapping and what is asked.", {"type": "string"}),
    "Data-As-Of": ("Changes up to then are in: `data_as_of`.", MOMENT),
    "Available-From": ("Start of the first half-hour that there is: `available_from`.", MOMENT),
    "Available-To": ("End of the last half-hour that there is: `available_to`.", MOMENT),
    "Link": ("The next page, rel=next, where there is one (RFC 8288).", {"type": "string"}),
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "JSON, or CSV or NDJSON of the rows alone (`format`, `Accept`).",
        "headers": {
            name: {"description": said, "schema": schema}
            for name, (said, schema) in HEADERS.items()
        },
        "content": {
            "text/csv": {"schema": {"type": "string"}},
            "application/x-ndjson": {"schema": {"type": "string"}},
        },
    },
    304: {"description": "Nothing changed since the answer whose ETag is in If-None-Match."},
}
reads = APIRouter(tags=["energy"], responses=RESPONSES)


@reads.get("/energy", summary="Energy per group and interval", response_model=Energy)
async def energy(asked: AskedDep, query: Annotated[EnergyQuery, Query()]) -> Response:
    """Sum the half-hours of the caller's circuits, in kWh; import and export stay separate."""
    scope, parts = asked.scope(query), _intervals(asked, query, query.granularity)
    question = asked.question("energy", query, parts.first, parts.last, query.granularity)
    after = None
    if query.cursor is not None:
        after = cursors.read(query.cursor, question.fingerprint, asked.services.keys)
    limit = query.limit or (MOST_ROWS if question.format.name == "json" else None)
    by = unique(query.group_by)
    return Answer(question, EnergyReport(query, scope, by, parts, after, limit))


@reads.get("/balance", summary="Generation, consumption and the grid", response_model=Balance)
async def balance(asked: AskedDep, query: Annotated[BalanceQuery, Query()]) -> Response:
    """Compare generation with consumption: energy used locally, and energy from and to the grid.

    In each half-hour, `generation` is the sum of what a group's circuits export, `consumption` the
    sum of what they import, and `self_consumption` the smaller of the two; `from_grid = consumption
    - self_consumption` and `to_grid = generation - self_consumption`. Longer intervals and totals
    are sums of half-hours. `self_consumption_ratio = self_consumption / generation` and
    `self_sufficiency_ratio = self_consumption / consumption`; a ratio is null where its divisor is
    zero. Each group is balanced by itself: each ESCO by default, each site with `group_by=site`.
    """
    scope, parts = asked.scope(query), _intervals(asked, query, query.granularity)
    question = asked.question("balance", query, parts.first, parts.last, query.granularity)
    return Answer(question, BalanceReport(query, scope, unique(query.group_by), parts))


@reads.get("/profile", summary="The average day", response_model=Profile)
async def profile(asked: AskedDep, query: Annotated[ProfileQuery, Query()]) -> Response:
    """Return mean and quantiles of a group's kWh for each half-hour of the local day.

    Half-hours without a reading are left out of the mean. When the clocks go back, both of the
    repeated half-hours count, so `expected_intervals` is one more there.
    """
    scope, parts = asked.scope(query), _half_hours(asked, query, "the average day")
    question = asked.question("profile", query, parts.first, parts.last)
    return Answer(question, ProfileReport(query, scope, unique(query.group_by), parts))


@reads.get("/peak", summary="The highest half-hours", response_model=Peak)
async def peak(asked: AskedDep, query: Annotated[PeakQuery, Query()]) -> Response:
    """Rank a group's half-hours by mean power in kW (twice their kWh); the earlier wins a tie.

    Half-hours with no energy in the direction are left out.
    """
    scope, parts = asked.scope(query), _half_hours(asked, query, "the highest half-hours")
    question = asked.question("peak", query, parts.first, parts.last, query.direction)
    return Answer(question, PeakReport(query, scope, unique(query.group_by), parts))


@reads.get("/completeness", summary="Missing half-hours per register", response_model=Completeness)
async def completeness(asked: AskedDep, query: Annotated[ScanQuery, Query()]) -> Response:
    """List the gaps in the half-hours of each register while it is mapped to a circuit.

    The future has no gaps: a period that ends in the future is examined up to now.
    """
    scope, parts = asked.scope(query), _half_hours(asked, query, "completeness").past()
    question = asked.question("completeness", query, parts.first, parts.last)
    return Answer(question, CompletenessReport(query, scope, BY, parts))


@reads.get("/latest", summary="Last reading and balance of each meter", response_model=Latest)
async def latest(asked: AskedDep, query: Annotated[LatestQuery, Query()]) -> Response:
    """Return each meter's newest half-hour, its counters, and its prepayment balance in pounds."""
    scope, zone = asked.scope(query), query.zone()
    question = asked.question("latest", query, None, None)
    return Answer(question, LatestReport(zone, scope))


def _intervals(asked: Asked, query: Window, granularity: Granularity) -> Intervals:
    return _split(asked, query, granularity, WIDEST[granularity], granularity)


def _half_hours(asked: Asked, query: Window, what: str) -> Intervals:
    return _split(asked, query, "PT30M", WIDEST_SCAN, what)


def _split(
    asked: Asked, query: Window, granularity: Granularity, widest: tuple[int, int], what: str
) -> Intervals:
    """Cut the period into intervals; Unprocessable if it is too long."""
    query.check(*widest, what, narrow=asked.scope(query).narrow)
    return split(granularity, query.zone(), query.period_from, query.period_to)


PATHS: dict[str, Callable[..., Awaitable[None]] | None] = {
    "/v1": None,
    "/v1/circuits/{id}": deps.of_circuit,
    "/v1/meters/{serial}": deps.of_meter,
    "/v1/properties/{id}": deps.of_property,
    "/v1/sites/{code_or_id}": deps.of_site,
    "/v1/escos/{code}": deps.of_esco,
}

# HEAD answers like GET without the body (RFC 9110 §9.3.2), so it is not documented twice.
for route in [route for route in reads.routes if isinstance(route, APIRoute)]:
    reads.add_api_route(route.path, route.endpoint, methods=["HEAD"], include_in_schema=False)

router = APIRouter()
for path, dependency in PATHS.items():
    router.include_router(
        reads, prefix=path, dependencies=[Depends(dependency)] if dependency else []
    )
