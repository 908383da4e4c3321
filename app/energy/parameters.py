"""Query parameters of the energy routes and their validation.

A value out of range is refused with an error that names the parameter; it is never clipped.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo, available_timezones

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic.config import JsonDict

from app.energy.groups import Dimension
from app.energy.intervals import Granularity
from app.errors import Unprocessable, fault

Word = TypeVar("Word", bound=str)
FormatName = Literal["json", "columns", "csv", "ndjson", "parquet", "arrow"]
MOST_ROWS = 100_000
MOST_PARQUET_ROWS = 500_000
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
LATEST = datetime(2100, 1, 1, tzinfo=UTC)
# Longest period in days: for one circuit, meter or property; for more than one.
WIDEST: dict[str, tuple[int, int]] = {
    "PT30M": (366, 31),
    "P1D": (3660, 366),
    "P1W": (3660, 732),
    "P1M": (18300, 3660),
    "P1Y": (18300, 7320),
}
# The same for reports that read every half-hour but return few rows.
WIDEST_SCAN = (1830, 366)


def _by_comma(value: Any) -> Any:
    """Split values at commas, so that `x=a,b` means the same as `x=a&x=b`."""
    values = [value] if isinstance(value, str) else value
    if isinstance(values, list) and all(isinstance(part, str) for part in values):
        return [word.strip() for part in values for word in part.split(",")]
    return value


def _many(what: str) -> Any:
    return Field(default_factory=list, max_length=100, description=what)


def _moment(value: Any) -> Any:
    """Reject a value that is not a time with an offset; the error shows how to write one."""
    if isinstance(value, str) and not OFFSET.search(value):
        if SPACE.search(value):
            raise ValueError("has a space where the + of the offset was: write + as %2B in a URL")
        raise ValueError(
            "must be a time with its offset, like 2026-10-01T00:00:00Z, or a local day"
        )
    return value


def _in_calendar(value: datetime) -> datetime:
    if not EARLIEST <= value <= LATEST:
        raise ValueError("must lie between 2000 and 2100")
    return value


DATE_ALONE = re.compile(r"\d{4}-\d\d-\d\d")
OFFSET = re.compile(r"\d[T ]\d.*(Z|[+-]\d\d:?\d\d)$", re.IGNORECASE)
SPACE = re.compile(r"T.* \d\d:?\d\d$", re.IGNORECASE)
Moment = Annotated[AwareDatetime, BeforeValidator(_moment), AfterValidator(_in_calendar)]
# For generators of requests; those who read these values say better why one is none.
BASE64URL: JsonDict = {"pattern": "^[A-Za-z0-9_-]*$"}
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Ids = Annotated[list[UUID], BeforeValidator(_by_comma)]
Names = Annotated[list[Name], BeforeValidator(_by_comma)]
CircuitType = Literal["power", "heat", "solar"]
DayClass = Literal["all", "weekday", "weekend", "month"]
Direction = Literal["import", "export"]
Include = Literal["names", "ids"]
Alert = Literal["low_balance", "offline", "clock_drift", "missing_readings", "stuck_register"]
Quality = Literal["all", "measured"]


class Filters(BaseModel):
    """Filters on circuits and registers; several values of one filter are alternatives."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    circuit: Ids = _many("Circuits, by id.")
    site: Names = _many("Sites, by code or id: circuits on them.")
    property_: Annotated[Ids, Field(alias="property")] = _many(
        "Properties, by id: registers of meters on their service heads."
    )
    meter: Names = _many("Meters, by serial number: their registers.")
    feeder: Names = _many("Feeders, by name or id: registers of meters on their service heads.")
    circuit_type: Annotated[list[CircuitType], BeforeValidator(_by_comma)] = _many(
        "Types of circuits: power, heat, solar."
    )


class Presented(BaseModel):
    """The time zone and the format of a response."""

    model_config = ConfigDict(extra="forbid")

    timezone: Name = Field(
        "Europe/London",
        description="IANA name; sets where days, weeks, months and years are cut.",
        examples=["Europe/London", "UTC"],
    )
    format: FormatName | None = Field(
        None, description="Format of the response; by default the Accept header decides, else JSON."
    )

    times: Literal["iso", "local"] = Field(
        "iso",
        description="`local` writes each time of CSV in two columns: the local time as "
        "spreadsheets take it, 2026-10-25 01:30:00, and beside it its offset, UTC+01:00, in a "
        "column whose name ends in `_offset`.",
    )

    def zone(self) -> ZoneInfo:
        """Return the time zone; Unprocessable if it is unknown."""
        if self.timezone not in zones():
            raise refuse("timezone", self.timezone, "must be an IANA name like Europe/London")
        return ZoneInfo(self.timezone)


class Zoned(Presented, Filters):
    """Filters, with the time zone and the format of the response."""


def _period_to(caps: str) -> Any:
    return Field(
        description=f"End, exclusive, with offset, or a local day. At most {caps} after "
        "period_from; the longer limit is for one circuit, meter or property.",
        examples=["2026-11-01T00:00:00Z"],
    )


def _caps(widest: tuple[int, int]) -> str:
    return f"{widest[1]} ({widest[0]}) days"


BY_GRANULARITY = ", ".join(f"{name}: {_caps(widest)}" for name, widest in WIDEST.items())


def _midnight(value: Any, zone: ZoneInfo) -> Any:
    """Return the start of a local day for a date alone; other values as they are."""
    if isinstance(value, str) and DATE_ALONE.fullmatch(value):
        with suppress(ValueError):
            day = date.fromisoformat(value)
            return datetime(day.year, day.month, day.day, tzinfo=zone)
    return value


class Window(Zoned):
    """Filters and a period; a date alone is the start of a local day."""

    include: Annotated[list[Include], BeforeValidator(_by_comma)] = Field(
        default_factory=list,
        max_length=2,
        description="`names` puts circuit_name, site_code, property_plot, meter_name and so on "
        "beside the keys of rows; CSV has them unless `ids` asks for the keys alone.",
    )
    quality: Quality = Field(
        "all",
        description="`measured` leaves out half-hours that were calculated from counter readings "
        "or imported as estimates; of `all`, `derived_intervals` counts them.",
    )

    @model_validator(mode="before")
    @classmethod
    def _local_days(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        name = values.get("timezone", "Europe/London")
        zone = ZoneInfo(name) if isinstance(name, str) and name in zones() else ZoneInfo("UTC")
        bounds = {"period_from", "period_to"} & values.keys()
        return values | {bound: _midnight(values[bound], zone) for bound in bounds}

    def has_names(self, form: FormatName) -> bool:
        """Return whether rows have names beside their keys."""
        return "names" in self.include or (form == "csv" and "ids" not in self.include)

    period_from: Moment = Field(
        description="Start, inclusive, with offset, or a local day.",
        examples=["2026-10-01T00:00:00Z"],
    )
    period_to: Moment = _period_to(BY_GRANULARITY)

    def check(self, narrow_days: int, wide_days: int, what: str, *, narrow: bool) -> None:
        """Raise Unprocessable for a period that is empty or longer than the limit in days.

        `narrow` selects the limit for one circuit, meter or property; `what` names the report.
        """
        if self.period_to <= self.period_from:
            raise refuse("period_to", self.period_to, "must be later than period_from")
        widest = narrow_days if narrow else wide_days
        if self.period_to - self.period_from > timedelta(days=widest):
            more = "" if narrow else f" ({narrow_days} for one circuit, meter or property)"
            raise refuse(
                "period_to",
                self.period_to,
                f"must be at most {widest} days after period_from for {what}{more}",
            )


GroupBy = Annotated[list[Dimension], BeforeValidator(_by_comma)]
DayClasses = Annotated[list[DayClass], BeforeValidator(_by_comma)]


def _granularity() -> Any:
    return Field(
        "P1D", description="Half-hours, or local days, weeks (from Monday), months, years."
    )


def _group_by(default: Dimension) -> Any:
    return Field(
        [default],
        min_length=1,
        max_length=8,
        description="Keys of the rows: one or more of these, repeated or separated by commas.",
        examples=[[default], ["site", "circuit_type"]],
    )


class EnergyQuery(Window):
    """Parameters of `/energy`."""

    granularity: Granularity = _granularity()
    group_by: GroupBy = _group_by("circuit")
    changes: str | None = Field(
        None,
        max_length=20_000,
        json_schema_extra=BASE64URL,
        description="`next_changes` of an earlier response, of its first page: return only "
        "intervals in which figures changed since. None is missed, however late its transaction "
        "ends. They are complete, with every group, so replace those you have.",
    )
    updated_since: Moment | None = Field(
        None,
        description="The same by the `data_as_of` of an earlier response, or any other time. An "
        "interval may be repeated that changed while another transaction was running.",
    )
    limit: int | None = Field(
        None, ge=1, le=MOST_ROWS,
        description=f"Most rows in a response. By default JSON has at most {MOST_ROWS}, while CSV, "
        "NDJSON and Arrow are complete; columns and Parquet have no pages.",
    )  # fmt: skip
    cursor: str | None = Field(
        None,
        max_length=2000,
        json_schema_extra=BASE64URL,
        description="`next` of the previous response (for CSV, NDJSON and Arrow, in its Link "
        "header); the other parameters must stay the same.",
    )


class BalanceQuery(Window):
    """Parameters of `/balance`."""

    granularity: Granularity = _granularity()
    group_by: GroupBy = _group_by("esco")


class ScanQuery(Window):
    """Parameters of reports that read every half-hour but return few rows."""

    period_to: Moment = _period_to(_caps(WIDEST_SCAN))


class ProfileQuery(ScanQuery):
    """Parameters of `/profile`."""

    group_by: GroupBy = _group_by("circuit")
    days: DayClasses = Field(
        ["all"],
        min_length=1,
        max_length=4,
        description="Days that are averaged together: all, Monday to Friday, Saturday and Sunday, "
        "or each local month; one or more of these.",
        examples=[["all"], ["weekday", "weekend"], ["month"]],
    )


class PeakQuery(ScanQuery):
    """Parameters of `/peak`."""

    group_by: GroupBy = _group_by("circuit")
    direction: Direction = Field("import", description="Direction that is ranked.")
    top: int = Field(10, ge=1, le=100, description="Number of half-hours per group.")


class LatestQuery(Zoned):
    """Parameters of `/latest`."""


def _threshold(default: float, least: float, most: float, said: str) -> Any:
    return Field(default, ge=least, le=most, allow_inf_nan=False, description=said)


class AlertsQuery(Zoned):
    """Parameters of `/alerts`: the kinds of alerts, and their thresholds."""

    alert: Annotated[list[Alert], BeforeValidator(_by_comma)] = Field(
        default_factory=list,
        max_length=5,
        description="Kinds of alerts, all of them by default; one or more of these.",
        examples=[["low_balance", "offline"]],
    )
    balance_below: float = _threshold(
        15.0, -1_000_000, 1_000_000, "Pounds; a balance below them is low."
    )
    offline_hours: float = _threshold(
        3, 1, 8760, "Hours without a signal after which an active meter is offline."
    )
    clock_seconds: float = _threshold(
        60, 1, 86_400, "Seconds by which a clock is wrong, fast or slow."
    )
    silent_hours: float = _threshold(
        24, 1, 8760, "Hours without a half-hour after which a register's readings are missing."
    )
    stuck_days: int = Field(
        7, ge=1, le=28, description="Days of half-hours without energy after which one is stuck."
    )


@cache
def zones() -> frozenset[str]:
    """Return the names of all IANA time zones, without the other files that tzdata ships."""
    return frozenset(
        name
        for name in available_timezones()
        if not name.startswith(("posix", "right/", "localtime", "Factory"))
    )


def refuse(parameter: str, value: object, message: str) -> Unprocessable:
    """Return the 422 error that names a parameter, its value and what is allowed."""
    shown = value.isoformat() if isinstance(value, datetime) else str(value)
    return Unprocessable.naming(fault("query", parameter, shown, message))


def unique(values: Iterable[Word]) -> list[Word]:
    """Return the values in their order, without repetitions."""
    return list(dict.fromkeys(values))
