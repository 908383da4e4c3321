"""`/v1/energy`: imported and exported energy per circuit and interval."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fastapi import APIRouter, Query
from psycopg.rows import DictRow
from pydantic import AwareDatetime, BaseModel, PlainSerializer

from app.auth.deps import Caller
from app.database import Connection, caller_session
from app.deps import ServicesDep
from app.errors import NotFound, Unprocessable

router = APIRouter(prefix="/v1", tags=["energy"])

Granularity = Literal["PT30M", "P1D"]
# A JSON number, as PostgREST sends it too; watt-hours of a lifetime fit into its 15 digits.
Kwh = Annotated[Decimal, PlainSerializer(float, return_type=float, when_used="json")]
WIDEST = {"PT30M": timedelta(days=366), "P1D": timedelta(days=3660)}
WIDEST_ALL_CIRCUITS = {"PT30M": timedelta(days=31), "P1D": timedelta(days=366)}

# Days are local days, so they are rolled up from half-hours: a UTC day would be wrong by the
# offset, and on the days of a clock change by an hour.
QUERY = """
    select
        circuit_id as circuit,
        {start} as interval_start,
        {end} as interval_end,
        sum(total_import_kwh) as import_kwh,
        sum(total_export_kwh) as export_kwh,
        count(*) as present_intervals
    from api.circuit_interval_hh
    where "timestamp" >= %(period_from)s and "timestamp" < %(period_to)s
        and (%(circuit)s::uuid is null or circuit_id = %(circuit)s::uuid)
    group by 1, 2, 3
    order by 2, 1
"""
BUCKETS: dict[str, tuple[str, str]] = {
    "PT30M": ('"timestamp"', "\"timestamp\" + interval '30 minutes'"),
    "P1D": (
        "date_trunc('day', \"timestamp\", %(timezone)s)",
        "(date_trunc('day', \"timestamp\" at time zone %(timezone)s) + interval '1 day')"
        " at time zone %(timezone)s",
    ),
}


class EnergyRow(BaseModel):
    """Energy of one circuit in one interval, in kWh, and how many of its half-hours are there."""

    circuit: UUID
    interval_start: datetime
    interval_end: datetime
    import_kwh: Kwh | None
    export_kwh: Kwh | None
    expected_intervals: int
    present_intervals: int


class Energy(BaseModel):
    """Energy per circuit and interval, with the timezone whose days these are."""

    granularity: Granularity
    timezone: str
    period_from: datetime
    period_to: datetime
    rows: list[EnergyRow]


@router.get("/energy", summary="Energy per circuit and interval")
async def energy(
    services: ServicesDep,
    caller: Caller,
    period_from: Annotated[AwareDatetime, Query(description="Start, inclusive, with offset.")],
    period_to: Annotated[AwareDatetime, Query(description="End, exclusive, with offset.")],
    granularity: Annotated[Granularity, Query(description="Half-hours or local days.")] = "P1D",
    circuit: Annotated[UUID | None, Query(description="One circuit; all when left out.")] = None,
    timezone: Annotated[str, Query(description="IANA name; days are its days.")] = "Europe/London",
) -> Energy:
    """Sum the half-hours of the caller's circuits, in kWh; import and export are never mixed."""
    zone = _zone(timezone)
    _check_span(granularity, period_from, period_to, circuit)
    start, end = BUCKETS[granularity]
    async with caller_session(services.pool, caller) as connection:
        if circuit:
            await _require_circuit(connection, circuit)
        cursor = await connection.execute(
            QUERY.format(start=start, end=end).encode(),
            {
                "period_from": period_from,
                "period_to": period_to,
                "circuit": circuit,
                "timezone": timezone,
            },
        )
        found = await cursor.fetchall()
    return Energy(
        granularity=granularity,
        timezone=timezone,
        period_from=period_from,
        period_to=period_to,
        rows=[_row(row, zone, period_from, period_to) for row in found],
    )


def _row(row: DictRow, zone: ZoneInfo, period_from: datetime, period_to: datetime) -> EnergyRow:
    """Label a row with local times; a day cut by the period expects only the half-hours in it."""
    start, end = max(row["interval_start"], period_from), min(row["interval_end"], period_to)
    times: dict[str, Any] = {
        name: row[name].astimezone(zone) for name in ("interval_start", "interval_end")
    }
    # Half-hours begin on :00 and :30 UTC: count those from start up to, not including, end.
    expected = -(-int(end.timestamp()) // 1800) + (-int(start.timestamp()) // 1800)
    return EnergyRow(**(row | times), expected_intervals=expected)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Unprocessable(
            f"timezone: {name!r} is no IANA time zone; write one like Europe/London"
        ) from None


def _check_span(
    granularity: Granularity, period_from: datetime, period_to: datetime, circuit: UUID | None
) -> None:
    widest = (WIDEST if circuit else WIDEST_ALL_CIRCUITS)[granularity]
    if period_to <= period_from:
        raise Unprocessable("period_to: must be later than period_from")
    if period_to - period_from > widest:
        raise Unprocessable(
            f"period_to: at most {widest.days} days after period_from for {granularity}"
            f"{'' if circuit else ' of all circuits (more with circuit=)'}"
        )


async def _require_circuit(connection: Connection, circuit: UUID) -> None:
    """A foreign circuit and one that does not exist are the same 404."""
    cursor = await connection.execute("select from api.circuits where id = %s", (circuit,))
    if await cursor.fetchone() is None:
        raise NotFound("There is no such circuit.")
