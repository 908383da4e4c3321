"""Conversion of CSV rows into half-hours, in UTC and kWh, or into refusals with a reason.

It does no input or output itself, and reads files of any length row by row.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal
from zoneinfo import ZoneInfo

HALF_HOUR = timedelta(minutes=30)
KWH_PER_UNIT = {"Wh": Decimal("0.001"), "kWh": Decimal(1), "MWh": Decimal(1000)}
# A tenth of a milliwatt-hour: finer than any meter counts, coarser than binary rounding errors.
PLACES = Decimal("0.0000001")
LARGEST_KWH = Decimal(1_000_000)
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


class FormatError(Exception):
    """The file as a whole cannot be read with this format; the message says what to change."""


@dataclass(frozen=True, slots=True)
class CsvFormat:
    """The format of a CSV file.

    Columns are named as in the header; without `time_column` the first one has the times. Times
    without an offset are wall-clock times of `timezone`. `label` tells if a time is the start or
    the end of its half-hour. `decimal` is the decimal separator.
    """

    time_column: str | None = None
    import_column: str | None = None
    export_column: str | None = None
    unit: Literal["Wh", "kWh", "MWh"] = "kWh"
    timezone: ZoneInfo | None = None
    label: Literal["start", "end"] = "start"
    time_format: str | None = None
    delimiter: str = ","
    decimal: Literal[".", ","] = "."


@dataclass(frozen=True, slots=True)
class HalfHour:
    """A half-hour: line in the file, start in UTC, energy in kWh (None: unknown)."""

    line: int
    start: datetime
    import_kwh: Decimal | None
    export_kwh: Decimal | None


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that cannot be imported, with the reason."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row of zeros at a wall-clock time that a clock change skipped."""

    line: int


class _Refusal(Exception):  # noqa: N818  (converted into a Refused within this module)
    pass


def read_rows(lines: Iterable[str], form: CsvFormat) -> Iterator[HalfHour | Refused | Skipped]:
    """Yield one item per row of a CSV file; FormatError if the file does not fit the format.

    If clocks go back and the file has a wall-clock time twice, the first is taken as before the
    change and the second as after it. If it has the time once, that is the one before the change.
    """
    if form.decimal == form.delimiter:
        raise FormatError(f"{form.decimal!r} cannot separate both columns and decimals")
    # Strict, so that a file cut off within quotes is an error.
    reader = csv.reader(lines, delimiter=form.delimiter, strict=True)
    try:
        header = next(reader, None)
    except csv.Error as error:
        raise FormatError(f"line {reader.line_num} is not CSV: {error}") from error
    if header is None:
        raise FormatError("the file is empty")
    header = [name.strip() for name in header]
    if form.import_column is None and form.export_column is None:
        raise FormatError(
            "name the energy column with --import-column or --export-column; the file has: "
            + _named(header)
        )
    time_at = 0 if form.time_column is None else _position(header, form.time_column)
    import_at = _position(header, form.import_column)
    export_at = _position(header, form.export_column)
    clock = _Clock(form)
    try:
        for cells in reader:
            line = reader.line_num
            if not any(cell.strip() for cell in cells):
                continue
            try:
                if len(cells) != len(header):
                    raise _Refusal(f"has {len(cells)} columns, the header has {len(header)}")
                imported = _energy(cells, import_at, form)
                exported = _energy(cells, export_at, form)
                start = clock.start(cells[time_at or 0].strip())
                if start is None:
                    if imported or exported:
                        raise _Refusal(
                            f"{cells[time_at or 0]} does not exist in {form.timezone}: a clock "
                            "change skipped it"
                        )
                    yield Skipped(line)
                    continue
                if imported is None and exported is None:
                    raise _Refusal("has no energy")
            except _Refusal as refusal:
                yield Refused(line, str(refusal))
            else:
                yield HalfHour(line, start, imported, exported)
    except csv.Error as error:
        raise FormatError(f"line {reader.line_num} is not CSV: {error}") from error


class _Clock:
    """Converts a file's times into starts of half-hours in UTC; remembers repeated times."""

    def __init__(self, form: CsvFormat) -> None:
        self._form = form
        self._seen: set[datetime] = set()

    def start(self, text: str) -> datetime | None:
        """Return the start of the half-hour that `text` labels; None if the clocks skipped it."""
        try:
            if self._form.time_format:
                label = datetime.strptime(text, self._form.time_format)
            else:
                label = datetime.fromisoformat(text)
        except ValueError:
            expected = self._form.time_format or "2026-01-31 13:30"
            raise _Refusal(f"{text!r} is not a time like {expected}") from None
        try:
            instant = self._instant(label)
            if instant is None:
                return None
            start = instant - HALF_HOUR if self._form.label == "end" else instant
        except (OverflowError, ValueError):
            raise _Refusal(f"{text!r} is outside the calendar") from None
        if start.minute % 30 or start.second or start.microsecond:
            raise _Refusal(f"{text} is not on the hour or half-hour")
        if not 1990 <= start.year < 2100:
            raise _Refusal(f"{text} is not between 1990 and 2100")
        return start

    def _instant(self, label: datetime) -> datetime | None:
        if label.tzinfo is not None:
            return label.astimezone(UTC)
        zone = self._form.timezone
        if zone is None:
            raise _Refusal(f"{label} has no offset; give its time zone with --timezone")
        first = label.replace(tzinfo=zone).astimezone(UTC)
        if first.astimezone(zone).replace(tzinfo=None) != label:
            # The end label of the half-hour before the change may be the time the change skips.
            return first if self._form.label == "end" and _exists(label - HALF_HOUR, zone) else None
        second = label.replace(tzinfo=zone, fold=1).astimezone(UTC)
        if first != second and label in self._seen:
            return second
        if first != second:
            self._seen.add(label)
        return first


def _exists(label: datetime, zone: ZoneInfo) -> bool:
    """Return whether the clocks of a zone ever showed a wall-clock time."""
    instant = label.replace(tzinfo=zone).astimezone(UTC)
    return instant.astimezone(zone).replace(tzinfo=None) == label


def _position(header: list[str], column: str | None) -> int | None:
    if column is None:
        return None
    found = [at for at, name in enumerate(header) if name == column]
    if len(found) != 1:
        many = "several columns" if found else "no column"
        raise FormatError(f"there is {many} {column!r}; the file has: {_named(header)}")
    return found[0]


def _named(header: list[str]) -> str:
    return ", ".join(repr(name) for name in header)


def _energy(cells: list[str], at: int | None, form: CsvFormat) -> Decimal | None:
    """Return the energy in a cell, kWh; None for an empty one."""
    if at is None or not (text := cells[at].strip()):
        return None
    plain = text if form.decimal == "." else text.replace(".", "?").replace(",", ".")
    # Decimal would also accept 1_000 and ١, which are mistakes in a file of readings.
    if not NUMBER.fullmatch(plain):
        comma = form.decimal == "." and NUMBER.fullmatch(text.replace(",", "."))
        hint = "; --decimal , reads a decimal comma" if comma else ""
        raise _Refusal(f"{text!r} is not a number{hint}")
    value = Decimal(plain)
    if value < 0:
        raise _Refusal(f"{text} is negative; import and export are separate columns")
    if value * KWH_PER_UNIT[form.unit] > LARGEST_KWH:
        raise _Refusal(f"{text} {form.unit} is more than any circuit carries in half an hour")
    return (value * KWH_PER_UNIT[form.unit]).quantize(PLACES).normalize()
