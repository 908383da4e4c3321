"""Models of the JSON bodies, for the OpenAPI document and the tests.

Responses are not built from them: `writers.py` writes their rows.
"""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, Field

from app.energy.groups import Dimension
from app.energy.intervals import Granularity
from app.energy.parameters import Alert, Direction

# A double, whose shortest text is that of the exact sum.
Kwh = Annotated[float, Field(ge=0, description="kWh; null where nothing was reported.")]
Kw = Annotated[float, Field(ge=0, description="Mean power of the half-hour, kW.")]
Share = Annotated[float, Field(ge=0, le=1)]
Start = Annotated[AwareDatetime, Field(description="Start, inclusive, local with offset.")]
End = Annotated[AwareDatetime, Field(description="End, exclusive, local with offset.")]


class Keys(BaseModel):
    """The keys of a row: the members that `group_by` names; null where a row has no such key."""

    esco: str | None = Field(None, description="Code of the ESCO.")
    site: UUID | None = Field(None, description="Site of the circuit.")
    property: UUID | None = Field(None, description="Property on a service head of the meter.")
    feeder: UUID | None = Field(None, description="Feeder of a service head of the meter.")
    circuit: UUID | None = Field(None, description="The circuit.")
    circuit_type: str | None = Field(None, description="power, heat or solar.")
    meter: str | None = Field(None, description="Serial number of the meter.")
    register_: UUID | None = Field(None, alias="register", description="The register.")
    # With `include=names`.
    esco_name: str | None = Field(None, description="Name of the ESCO.")
    site_code: str | None = Field(None, description="Code of the site.")
    property_plot: str | None = Field(None, description="Plot of the property.")
    feeder_name: str | None = Field(None, description="Name of the feeder.")
    circuit_name: str | None = Field(None, description="Name of the circuit.")
    meter_name: str | None = Field(None, description="Name of the meter.")


class Coverage(BaseModel):
    """The share of the expected data that is present in an interval."""

    expected_intervals: int = Field(
        description="Half-hours of the interval inside the period that have ended, 46, 48 or 50 in "
        "a day; in a total, of the whole period."
    )
    present_intervals: int = Field(description="Expected half-hours with at least one reading.")
    derived_intervals: int = Field(
        description="Those of which a reading was calculated from counters or imported as an "
        "estimate; `quality=measured` leaves such readings out."
    )
    meters_expected: int = Field(description="Meters mapped to the group in the interval.")
    meters_reporting: int = Field(description="Meters with a reading in the interval.")
    complete: bool = Field(
        description="True if every half-hour of every mapped register is present; false also where "
        "nothing was mapped, and until the interval has ended."
    )


class EnergyRow(Keys, Coverage):
    """Energy of a group in an interval."""

    interval_start: Start
    interval_end: End
    partial: bool = Field(description="True if the period cuts the interval.")
    import_kwh: Kwh | None
    export_kwh: Kwh | None


class PeriodBody(BaseModel):
    """Members that every response over a period has."""

    timezone: str = Field(description="IANA name of the zone of days and times.")
    period_from: datetime = Field(description="Start of the requested period, inclusive.")
    period_to: datetime = Field(description="End of the requested period, exclusive.")
    available_from: datetime | None = Field(
        description="Start of the first half-hour stored, in any period, for the selected circuits "
        "and registers; null if there is none."
    )
    available_to: datetime | None = Field(
        description="End of the last half-hour stored for them, exclusive."
    )
    data_as_of: datetime | None = Field(
        description="Changes up to this time are included; send it as `updated_since` next time. "
        "Null if nothing ever changed in the period."
    )


class Energy(PeriodBody):
    """Energy per group and interval.

    A group to which a register was mapped at any time of the period has a row in each interval,
    with null energy where nothing was reported. Energy is the sum of the half-hours reported.
    """

    granularity: Granularity
    group_by: list[Dimension]
    rows: list[EnergyRow] = Field(description="By interval, then by group.")
    next: str | None = Field(description="Cursor of the next page; null on the last.")
    next_changes: str = Field(description="Send it as `changes` next time.")


class BalanceFigures(Keys):
    """Energy generated, consumed, self-consumed, and exchanged with the grid."""

    generation_kwh: Kwh | None = Field(description="Energy that the circuits export, kWh.")
    consumption_kwh: Kwh | None = Field(description="Energy that the circuits import, kWh.")
    self_consumption_kwh: Kwh | None = Field(
        description="Sum over half-hours of the smaller of generation and consumption, kWh."
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
    partial: bool = Field(description="True if the period cuts the interval.")


class BalanceTotal(BalanceFigures, Coverage):
    """The balance of a group over the whole period."""


class Balance(PeriodBody):
    """Generation and consumption per group and interval, and in total."""

    granularity: Granularity
    group_by: list[Dimension]
    rows: list[BalanceRow] = Field(description="By interval, then by group.")
    totals: list[BalanceTotal] = Field(description="Each group over the whole period.")


class ProfileRow(Keys):
    """A half-hour of a group's average day; energy is in kWh per half-hour."""

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
    present_intervals: int = Field(description="Those with a reading; only they are counted.")
    derived_intervals: int = Field(description="Those of which a reading is an estimate.")
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
    complete: bool = Field(description="True if every mapped register reported.")


class Peak(PeriodBody):
    """The highest half-hours of each group."""

    direction: Direction
    group_by: list[Dimension]
    rows: list[PeakRow] = Field(description="By group, then by rank.")


class Gap(BaseModel):
    """A run of consecutive missing half-hours."""

    start: Start
    end: End
    missing_intervals: int = Field(ge=1, description="Number of half-hours.")


class CompletenessRow(BaseModel):
    """The half-hours present and missing of a register."""

    meter: str | None = Field(description="Serial number of the meter.")
    register_: UUID = Field(alias="register", description="The register.")
    expected_intervals: int = Field(description="Half-hours in which it was mapped to a circuit.")
    present_intervals: int = Field(description="Expected half-hours with a reading.")
    derived_intervals: int = Field(description="Those of which the reading is an estimate.")
    share_present: Share = Field(description="present_intervals / expected_intervals.")
    gaps: list[Gap] = Field(description="By start; in CSV, a field with JSON.")


class Completeness(PeriodBody):
    """Gaps per register."""

    rows: list[CompletenessRow] = Field(description="By meter, then by register.")


class LatestRow(BaseModel):
    """The last reading and the state of a meter."""

    meter: str | None = Field(description="Serial number; null if it has none yet.")
    meter_name: str | None = Field(description="Name of the meter.")
    name: str | None = Field(description="The same as `meter_name`.", deprecated=True)
    esco: str | None = Field(description="Code of the ESCO.")
    health: str | None = Field(description="healthy or unhealthy.")
    interval_start: Start | None = Field(description="Newest half-hour; null if there is none.")
    interval_end: End | None
    balance_updated_at: AwareDatetime | None
    last_healthy_at: AwareDatetime | None
    state_updated_at: AwareDatetime | None = Field(description="Time the meter's state was stored.")
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
    data_as_of: datetime | None = Field(description="Changes up to this time are included.")
    rows: list[LatestRow] = Field(description="By serial number.")


class AlertRow(BaseModel):
    """A meter or a register that needs attention."""

    alert: Alert = Field(
        description="low_balance: less credit than `balance_below`. offline: an active meter that "
        "told no signal and was not found healthy. clock_drift: a wrong clock. missing_readings: a "
        "register in use whose half-hours stopped, or never came. stuck_register: one whose "
        "half-hours have no energy."
    )
    meter: str | None = Field(description="Serial number; null if it has none yet.")
    meter_name: str | None
    register_: UUID | None = Field(alias="register", description="Of alerts of registers.")
    esco: str | None = Field(description="Code of the ESCO.")
    since: AwareDatetime | None = Field(
        description="Time since which it is so: the first low balance; the last signal; the "
        "measurement of the clock; the end of the last half-hour, or of the last one with energy. "
        "Null where it began more than 31 days ago (low balances, stuck registers), or was never "
        "otherwise."
    )
    balance: float | None = Field(description="Of low balances, pounds.")
    clock_seconds: float | None = Field(
        description="Of wrong clocks, seconds by which they differ."
    )


class Alerts(BaseModel):
    """Meters and registers that need attention."""

    timezone: str = Field(description="IANA name of the zone of the times.")
    rows: list[AlertRow] = Field(description="By kind, then by meter and register.")


class ListBody(BaseModel):
    """Members of every list."""

    timezone: str = Field(description="IANA name of the zone of the times.")


class Availability(BaseModel):
    """The time for which there are half-hours; null if there are none."""

    available_from: datetime | None = Field(description="Start of the first half-hour.")
    available_to: datetime | None = Field(description="End of the last half-hour.")


class CircuitItem(Availability):
    """A circuit; `circuit` is its id."""

    circuit: UUID
    circuit_name: str | None
    circuit_type: str = Field(description="power, heat or solar.")
    site: UUID | None
    site_code: str | None
    esco: str | None = Field(description="Code of the ESCO.")


class CircuitList(ListBody):
    """Circuits."""

    rows: list[CircuitItem] = Field(description="By id.")


class MeterItem(Availability):
    """A meter; `meter` is its serial number."""

    meter: str | None
    meter_name: str | None
    meter_id: UUID
    site: UUID | None
    site_code: str | None
    properties: str | None = Field(description="Properties on its service heads, by space.")
    esco: str | None = Field(description="Code of the ESCO.")


class MeterList(ListBody):
    """Meters."""

    rows: list[MeterItem] = Field(description="By serial number.")


class PropertyItem(BaseModel):
    """A property; `property` is its id."""

    property: UUID
    property_plot: str
    site: UUID | None
    site_code: str | None
    esco: str | None = Field(description="Code of the ESCO.")


class PropertyList(ListBody):
    """Properties."""

    rows: list[PropertyItem] = Field(description="By id.")


class SiteItem(BaseModel):
    """A site; `site` is its id."""

    site: UUID
    site_code: str | None
    site_name: str
    esco: str | None = Field(description="Code of the ESCO.")


class SiteList(ListBody):
    """Sites."""

    rows: list[SiteItem] = Field(description="By id.")


class EscoItem(BaseModel):
    """An ESCO; `esco` is its code."""

    esco: str
    esco_name: str
    esco_id: UUID


class EscoList(ListBody):
    """ESCOs."""

    rows: list[EscoItem] = Field(description="By code.")
