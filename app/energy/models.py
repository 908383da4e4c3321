"""Bodies of the JSON answers, for the documentation and for tests; rows are written elsewhere."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, Field

from app.energy.groups import Dimension
from app.energy.intervals import Granularity
from app.energy.parameters import Direction

# A JSON number, written with every digit the meter gave.
Kwh = Annotated[float, Field(ge=0, description="kWh; null where nothing was reported.")]
Kw = Annotated[float, Field(ge=0, description="Mean power of the half-hour, kW.")]
Share = Annotated[float, Field(ge=0, le=1)]
Start = Annotated[AwareDatetime, Field(description="Start, inclusive, local with offset.")]
End = Annotated[AwareDatetime, Field(description="End, exclusive, local with offset.")]


class Keys(BaseModel):
    """What a row is for: those of these that `group_by` names; null where there is none."""

    esco: str | None = Field(None, description="Code of the ESCO.")
    site: UUID | None = Field(None, description="Site of the circuit.")
    property: UUID | None = Field(None, description="Property on a service head of the meter.")
    feeder: UUID | None = Field(None, description="Feeder of a service head of the meter.")
    circuit: UUID | None = Field(None, description="The circuit.")
    circuit_type: str | None = Field(None, description="power, heat or solar.")
    meter: str | None = Field(None, description="Serial number of the meter.")
    register_: UUID | None = Field(None, alias="register", description="The register.")


class Coverage(BaseModel):
    """How much of an interval is there."""

    expected_intervals: int = Field(
        description="Half-hours of the interval inside the period, 46, 48 or 50 in a day; in a "
        "total, of the whole period."
    )
    present_intervals: int = Field(description="Those of them with at least one reading.")
    meters_expected: int = Field(description="Meters mapped to the group in the interval.")
    meters_reporting: int = Field(description="Meters with a reading in the interval.")
    complete: bool = Field(
        description="Whether each half-hour of each mapped register is there; false also where "
        "nothing was mapped."
    )


class EnergyRow(Keys, Coverage):
    """Energy of a group in an interval."""

    interval_start: Start
    interval_end: End
    import_kwh: Kwh | None
    export_kwh: Kwh | None


class PeriodBody(BaseModel):
    """What every answer over a period says of itself."""

    timezone: str = Field(description="IANA name of the zone whose days these are.")
    period_from: datetime = Field(description="Start asked for, inclusive.")
    period_to: datetime = Field(description="End asked for, exclusive.")
    available_from: datetime | None = Field(
        description="Start of the first half-hour that there is, at any time, of what is asked "
        "for; null without any."
    )
    available_to: datetime | None = Field(
        description="End of the last half-hour that there is of it, exclusive."
    )
    data_as_of: datetime | None = Field(
        description="Changes up to then are in; send it as `updated_since` next time. Null where "
        "nothing ever changed in the period."
    )


class Energy(PeriodBody):
    """Energy per group and interval.

    A group to which a register was mapped at any time of the period has a row in each interval,
    with null energy where nothing was reported. Energy is summed over what was reported.
    """

    granularity: Granularity
    group_by: list[Dimension]
    rows: list[EnergyRow] = Field(description="By interval, then by group.")
    next: str | None = Field(description="Cursor of the next page; null on the last.")


class BalanceFigures(Keys):
    """Energy generated and used in the same half-hours, and the grid's part."""

    generation_kwh: Kwh | None = Field(description="What the circuits export, kWh.")
    consumption_kwh: Kwh | None = Field(description="What the circuits import, kWh.")
    self_consumption_kwh: Kwh | None = Field(
        description="Sum over half-hours of the smaller of the two, kWh."
    )
    from_grid_kwh: Kwh | None = Field(description="consumption_kwh - self_consumption_kwh.")
    to_grid_kwh: Kwh | None = Field(description="generation_kwh - self_consumption_kwh.")
    self_consumption_ratio: Share | None = Field(
        description="self_consumption_kwh / generation_kwh; null where nothing was generated."
    )
    self_sufficiency_ratio: Share | None = Field(
        description="self_consumption_kwh / consumption_kwh; null where nothing was consumed."
    )


class BalanceRow(BalanceFigures, Coverage):
    """The balance of a group in an interval."""

    interval_start: Start
    interval_end: End


class BalanceTotal(BalanceFigures, Coverage):
    """The balance of a group over the whole period."""


class Balance(PeriodBody):
    """Generation against consumption per group and interval, and in total."""

    granularity: Granularity
    group_by: list[Dimension]
    rows: list[BalanceRow] = Field(description="By interval, then by group.")
    totals: list[BalanceTotal] = Field(description="Each group over the whole period.")


class ProfileRow(Keys):
    """A half-hour of a group's average day; kWh are those of one half-hour."""

    days: str = Field(description="all, weekday, weekend, or a month like 2026-10.")
    time: str = Field(description="Local start of the half-hour, HH:MM.", examples=["18:30"])
    mean_import_kwh: Kwh | None
    p10_import_kwh: Kwh | None
    p50_import_kwh: Kwh | None
    p90_import_kwh: Kwh | None
    mean_export_kwh: Kwh | None
    p10_export_kwh: Kwh | None
    p50_export_kwh: Kwh | None
    p90_export_kwh: Kwh | None
    expected_intervals: int = Field(description="Half-hours at that time on such days.")
    present_intervals: int = Field(description="Those with at least one reading: they are counted.")
    complete_intervals: int = Field(description="Those with a reading of each mapped register.")
    meters_expected: int = Field(description="Meters mapped to the group in the period.")
    meters_reporting: int = Field(description="Meters with a reading in the period.")


class Profile(PeriodBody):
    """The average day of each group: mean, 10 %, 50 % (median) and 90 % quantile, interpolated."""

    group_by: list[Dimension]
    rows: list[ProfileRow] = Field(description="By group, days and time.")


class PeakRow(Keys):
    """One of the highest half-hours of a group."""

    rank: int = Field(ge=1, description="1 is the highest.")
    interval_start: Start
    interval_end: End
    import_kw: Kw
    export_kw: Kw
    meters_expected: int = Field(description="Meters mapped to the group in the half-hour.")
    meters_reporting: int = Field(description="Meters with a reading in the half-hour.")
    complete: bool = Field(description="Whether each mapped register reported.")


class Peak(PeriodBody):
    """The highest half-hours of each group."""

    direction: Direction
    group_by: list[Dimension]
    rows: list[PeakRow] = Field(description="By group, then by rank.")


class Gap(BaseModel):
    """Half-hours that are missing one after the other."""

    start: Start
    end: End
    missing_intervals: int = Field(ge=1, description="How many half-hours.")


class CompletenessRow(BaseModel):
    """What is there and what is missing of a register."""

    meter: str = Field(description="Serial number of the meter.")
    register_: UUID = Field(alias="register", description="The register.")
    expected_intervals: int = Field(description="Half-hours in which it was mapped to a circuit.")
    present_intervals: int = Field(description="Those of them with a reading.")
    share_present: Share = Field(description="present_intervals / expected_intervals.")
    gaps: list[Gap] = Field(description="By start; in CSV, JSON in a field.")


class Completeness(PeriodBody):
    """Gaps per register."""

    rows: list[CompletenessRow] = Field(description="By meter, then by register.")


class LatestRow(BaseModel):
    """The last of a meter."""

    meter: str = Field(description="Serial number.")
    name: str
    esco: str | None = Field(description="Code of the ESCO.")
    health: str | None = Field(description="healthy or unhealthy.")
    interval_start: Start | None = Field(description="The newest half-hour; null without any.")
    interval_end: End | None
    balance_updated_at: AwareDatetime | None
    last_healthy_at: AwareDatetime | None
    state_updated_at: AwareDatetime | None = Field(description="When the meter's state was kept.")
    import_kwh: Kwh | None = Field(description="kWh of the newest half-hour, all registers.")
    export_kwh: Kwh | None
    registers_reporting: int = Field(description="Registers whose newest half-hour this is.")
    balance: float | None = Field(description="Prepayment credit left, pounds.")
    emergency_credit: float | None = Field(description="Pounds.")
    import_a_kwh: Kwh | None = Field(description="Counter of element A (or SINGLE), kWh.")
    import_b_kwh: Kwh | None = Field(description="Counter of element B, kWh.")
    export_a_kwh: Kwh | None = Field(description="Counter of element A (or SINGLE), kWh.")
    export_b_kwh: Kwh | None = Field(description="Counter of element B, kWh.")


class Latest(BaseModel):
    """The last reading and the prepayment balance of each meter."""

    timezone: str = Field(description="IANA name of the zone of the times.")
    data_as_of: datetime | None = Field(description="Changes of half-hours up to then are in.")
    rows: list[LatestRow] = Field(description="By serial number.")
