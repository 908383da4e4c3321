"""Bodies of the JSON answers, for the documentation and for tests; rows are written elsewhere."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, Field

from app.energy.groups import Dimension
from app.energy.intervals import Granularity

# A JSON number, written with every digit the meter gave.
Kwh = Annotated[float, Field(ge=0, description="kWh; null where nothing was reported.")]
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
        description="Half-hours of the interval inside the period: 46, 48 or 50 in a day."
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
