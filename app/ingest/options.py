"""Options of an import: the same for the command line, for profiles and for HTTP."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from app.ingest.faults import FormatError

MINUTES = {"1m": 1, "5m": 5, "10m": 10, "15m": 15, "30m": 30, "60m": 60, "1d": 1440}
INTERVAL_NAMES = {minutes: name for name, minutes in MINUTES.items()}
Interval = Literal["1m", "5m", "10m", "15m", "30m", "60m", "1d"]
Unit = Literal["Wh", "kWh", "MWh", "W", "kW", "MW", "J", "kJ", "MJ", "GJ"]
Direction = Literal["import", "export"]
Layout = Literal["rows", "days", "nem12", "nem13", "espi"]
NULL_WORDS = ("null", "none", "n/a", "#n/a", "na", "-", "--")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A quantity of a long format: its direction, and its unit if it is not the file's."""

    direction: Literal["import", "export", "skip"]
    unit: Unit | None = None


class ImportOptions(BaseModel):
    """The way a file is read, and the registers its energy belongs to.

    Columns are named as in the header. Times without an offset are wall-clock times of `timezone`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: Annotated[
        str | None,
        Field(
            description="Profile of the file's origin, as esb-hdf, or the path of a TOML file;"
            " found by default."
        ),
    ] = None
    layout: Annotated[
        Layout, Field(description="A row for each interval, or for each day; or a format's name.")
    ] = "rows"
    register_id: Annotated[
        UUID | None, Field(description="Register that all energy of the file belongs to.")
    ] = None
    register_column: Annotated[
        str | None, Field(description="Column of register ids, for a file of several registers.")
    ] = None
    serial_column: Annotated[
        str | None,
        Field(
            description="Column of meters' serial numbers, or of registers' MPANs, for a file of "
            "several meters."
        ),
    ] = None
    map: Annotated[
        dict[str, UUID],
        Field(description="KEY=REGISTER: register of a key in the column; repeatable."),
    ] = {}
    where: Annotated[
        tuple[tuple[str, str], ...],
        Field(
            description="COLUMN=VALUE: take only such rows; repeatable, values of a column are"
            " alternatives."
        ),
    ] = ()
    time_column: Annotated[
        str | None, Field(description="Column of the time; by default the first.")
    ] = None
    date_column: Annotated[
        str | None, Field(description="Column of the date, if the time stands apart.")
    ] = None
    import_column: Annotated[
        str | None, Field(description="Column of imported energy (consumption).")
    ] = None
    export_column: Annotated[
        str | None, Field(description="Column of exported energy (generation).")
    ] = None
    number_column: Annotated[
        str | None,
        Field(description="Column of the interval's number in the day of the time, from 1."),
    ] = None
    direction: Annotated[
        Direction | None,
        Field(description="Direction of the values, where no column says it; import by default."),
    ] = None
    sign: Annotated[
        Direction | None,
        Field(
            description="The energy column is signed: positive values are import, or export,"
            " negative ones the other."
        ),
    ] = None
    quantity_column: Annotated[
        str | None, Field(description="Column that says what the row's value is (long format).")
    ] = None
    value_column: Annotated[
        str | None, Field(description="Column of the value, beside --quantity-column.")
    ] = None
    quantity: Annotated[
        dict[str, Quantity],
        Field(description="NAME=import, export or skip, and :UNIT if it has one; repeatable."),
    ] = {}
    quality_column: Annotated[
        str | None, Field(description="Column of the quality, or status, of the value.")
    ] = None
    estimated: Annotated[
        tuple[str, ...], Field(description="Words of the quality that mean an estimate.")
    ] = ()
    unit: Annotated[Unit, Field(description="Unit of energy, or of mean power.")] = "kWh"
    timezone: Annotated[
        str | None, Field(description="Time zone of times without an offset, as Europe/London.")
    ] = None
    label: Annotated[
        Literal["start", "end"], Field(description="Times are the start or the end of intervals.")
    ] = "start"
    clock_change: Annotated[
        Literal["pairs"] | None,
        Field(
            description="Where clocks go back, the file has equal times together in pairs, the one"
            " before the change first; by default the order of the rows has to tell them apart."
        ),
    ] = None
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
    thousands: Annotated[
        Literal[",", ".", " ", "'"] | None, Field(description="Separator of thousands.")
    ] = None
    null: Annotated[
        tuple[str, ...],
        Field(description="A further word for an unknown value, in either case; repeatable."),
    ] = ()

    encoding: Annotated[
        str | None,
        Field(description="Encoding of the text; found by default (UTF-8, UTF-16, else cp1252)."),
    ] = None
    sheet: Annotated[
        str | None, Field(description="Sheet of a workbook (xlsx, xls), or file of a zip file.")
    ] = None

    @field_validator("map", mode="before")
    @classmethod
    def _mapping(cls, given: Any) -> Any:
        """Read KEY=VALUE, as on the command line."""
        return _pairs(given)

    @field_validator("where", mode="before")
    @classmethod
    def _conditions(cls, given: Any) -> Any:
        if isinstance(given, list | tuple):
            return [_pair(item) if isinstance(item, str) else item for item in given]
        return given

    @field_validator("quantity", mode="before")
    @classmethod
    def _quantities(cls, given: Any) -> Any:
        """Read NAME=DIRECTION:UNIT."""
        given = _pairs(given)
        if not isinstance(given, dict):
            return given
        parts = {name: str(value).partition(":") for name, value in given.items()}
        return {
            name: value
            if isinstance(value, Quantity | dict)
            else {"direction": parts[name][0], "unit": parts[name][2] or None}
            for name, value in given.items()
        }

    @field_validator("encoding")
    @classmethod
    def _text_encoding(cls, name: str | None) -> str | None:
        try:
            if name is not None:
                "".encode(name)
        except (LookupError, ValueError):
            raise ValueError(f"{name!r} is no encoding known, as cp1252 or utf-16") from None
        return name

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
        if self.thousands == self.decimal:
            raise ValueError(f"{self.decimal!r} cannot separate both thousands and decimals")
        if (self.quantity_column is None) != (self.value_column is None):
            raise ValueError("--quantity-column and --value-column belong together")
        if self.quantity_column and (self.import_column or self.export_column or self.sign):
            raise ValueError("--quantity-column goes without columns of import and export")
        if self.sign and (self.import_column is None) == (self.export_column is None):
            raise ValueError("--sign needs one column, --import-column or --export-column")
        if self.interval == "1d" and self.unit in ("W", "kW", "MW"):
            raise ValueError("--unit: mean power of a day is no energy: days have 23 to 25 hours")
        if self.register_column and self.serial_column:
            raise ValueError("--register-column and --serial-column exclude each other")
        return self

    @property
    def columns(self) -> list[str]:
        """The columns that the header must have."""
        names = (
            self.time_column, self.date_column, self.number_column, self.import_column,
            self.export_column, self.quantity_column, self.value_column, self.quality_column,
            self.register_column, self.serial_column, *(column for column, _ in self.where),
        )  # fmt: skip
        return [name for name in names if name is not None]

    @property
    def zone(self) -> ZoneInfo | None:
        """The time zone of times without an offset."""
        return ZoneInfo(self.timezone) if self.timezone else None

    @property
    def minutes(self) -> int:
        """Minutes from one row to the next."""
        return MINUTES[self.interval or "30m"]


def _pairs(given: Any) -> Any:
    """Return texts like KEY=VALUE as a dictionary, anything else as it is."""
    return dict(map(_pair, given)) if isinstance(given, list | tuple) else given


def _pair(text: Any) -> tuple[str, str]:
    name, equals, value = str(text).partition("=")
    if not equals or not name.strip():
        raise ValueError(f"{text!r} is not NAME=VALUE")
    return name.strip(), value.strip()


def read_options(**given: Any) -> ImportOptions:
    """Return validated options; FormatError with the first mistake in one line."""
    try:
        return ImportOptions(**given)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        where = "".join(f"--{str(name).replace('_', '-')}: " for name in first["loc"][:1])
        raise FormatError(where + message) from None
