"""Options of an import: the same for the command line, for profiles and for HTTP."""

from typing import Annotated, Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from app.ingest.faults import FormatError

MINUTES = {"1m": 1, "5m": 5, "10m": 10, "15m": 15, "30m": 30, "60m": 60, "1d": 1440}
INTERVAL_NAMES = {minutes: name for name, minutes in MINUTES.items()}
Interval = Literal["1m", "5m", "10m", "15m", "30m", "60m", "1d"]
Unit = Literal["Wh", "kWh", "MWh", "W", "kW", "MW", "J", "kJ", "MJ", "GJ"]
NULL_WORDS = ("null", "none", "n/a", "#n/a", "na", "-", "--")


class ImportOptions(BaseModel):
    """The way a file is read, and the registers its energy belongs to.

    Columns are named as in the header. Times without an offset are wall-clock times of `timezone`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    register_id: Annotated[
        UUID | None, Field(description="Register that all energy of the file belongs to.")
    ] = None
    time_column: Annotated[
        str | None, Field(description="Column of the time; by default the first.")
    ] = None
    import_column: Annotated[
        str | None, Field(description="Column of imported energy (consumption).")
    ] = None
    export_column: Annotated[
        str | None, Field(description="Column of exported energy (generation).")
    ] = None
    unit: Annotated[Unit, Field(description="Unit of energy, or of mean power.")] = "kWh"
    timezone: Annotated[
        str | None, Field(description="Time zone of times without an offset, as Europe/London.")
    ] = None
    label: Annotated[
        Literal["start", "end"], Field(description="Times are the start or the end of intervals.")
    ] = "start"
    time_format: Annotated[
        str | None,
        Field(
            description="Format of times, as %d/%m/%Y %H:%M, or unix, unix-ms or excel; by default"
            " ISO 8601 or a number of one of these kinds."
        ),
    ] = None
    interval: Annotated[
        Interval | None,
        Field(description="Interval of the rows, if it is not 30 minutes; finer ones are summed."),
    ] = None
    spread: Annotated[
        Literal["even"] | None,
        Field(description="Spread intervals longer than 30 minutes evenly, as estimates."),
    ] = None
    reads: Annotated[
        bool, Field(description="Values are readings of counters, not energy of intervals.")
    ] = False
    delimiter: Annotated[
        str | None,
        Field(description="Separator of columns: a character, or \\t for a tab; found by default."),
    ] = None
    decimal: Annotated[Literal[".", ","], Field(description="Decimal separator.")] = "."
    null: Annotated[
        tuple[str, ...], Field(description="Words for an unknown value, in either case.")
    ] = NULL_WORDS

    @field_validator("timezone")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        try:
            if name:
                ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"{name!r} is not an IANA time zone like Europe/London") from None
        return name

    @field_validator("delimiter")
    @classmethod
    def _single(cls, text: str | None) -> str | None:
        text = "\t" if text == "\\t" else text
        if text is not None and (len(text) != 1 or text in '"\r\n'):
            raise ValueError(f"{text!r} is not a single character")
        return text

    @model_validator(mode="after")
    def _consistent(self) -> "ImportOptions":
        if self.decimal == self.delimiter:
            raise ValueError(f"{self.decimal!r} cannot separate both columns and decimals")
        return self

    @property
    def zone(self) -> ZoneInfo | None:
        """The time zone of times without an offset."""
        return ZoneInfo(self.timezone) if self.timezone else None

    @property
    def minutes(self) -> int:
        """Minutes from one row to the next."""
        return MINUTES[self.interval or "30m"]


def read_options(**given: Any) -> ImportOptions:
    """Return validated options; FormatError with the first mistake in one line."""
    try:
        return ImportOptions(**given)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        where = "".join(f"--{str(name).replace('_', '-')}: " for name in first["loc"][:1])
        raise FormatError(where + message) from None
