"""Rows of a CSV file become half-hours, in UTC and kWh, or refusals with a reason.

No input or output happens here, and a file of any length is read row by row.
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
# A tenth of a milliwatt-hour: below what any meter counts, above the noise of binary fractions.
PLACES = Decimal("0.0000001")
LARGEST_KWH = Decimal(1_000_000)
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


class FormatError(Exception):
    """The file as a whole cannot be read as asked; the message says what to change."""


@dataclass(frozen=True, slots=True)
class CsvFormat:
    """How a file is to be read.

    Columns are named by the header; `time_column` None is the first. Times without an offset are
    wall-clock times of `timezone`. `label` says whether a time is the half-hour's start or its end.
    `decimal` is what stands before the fraction of a number.
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
    """One half-hour: line in the file, start in UTC, energy in kWh or None where unknown."""

    line: int
    start: datetime
    import_kwh: Decimal | None
    export_kwh: Decimal | None


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that cannot be taken, and why."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row of zeros at a wall-clock time that the clocks jumped over."""

    line: int


class _Refusal(Exception):  # noqa: N818  (becomes a Refused, never leaves this module)
    pass


def read_rows(lines: Iterable[str], form: CsvFormat) -> Iterator[HalfHour | Refused | Skipped]:
    """Yield what each row of a CSV file is; FormatError when its header lacks an asked column.

    Where clocks go back, a wall-clock time that stands twice in the file is the first pass and then
    the second; one that stands there once is the first, and the second is missing.
    """
    if form.decimal == form.delimiter:
        raise FormatError(f"{form.decimal!r} cannot separate both columns and decimals")
    # Strict: a file that was cut off within quotes is no file.
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
            "say which column is energy with --import-column or --export-column; the file has: "
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
                            f"{cells[time_at or 0]} does not exist in {form.timezone}: the clocks "
                            "jumped over it"
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
    """Turns a file's labels into starts of half-hours, UTC; remembers repeated wall-clock times."""

    def __init__(self, form: CsvFormat) -> None:
        self._form = form
        self._seen: set[datetime] = set()

    def start(self, text: str) -> datetime | None:
        """The start of the half-hour that a label means; None for one that the clocks skip."""
        try:
            if self._form.time_format:
                label = datetime.strptime(text, self._form.time_format)
            else:
                label = datetime.fromisoformat(text)
        except ValueError:
            expected = self._form.time_format or "2026-01-31 13:30"
            raise _Refusal(f"{text!r} is no time like {expected}") from None
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
            raise _Refusal(f"{label} has no offset; say whose clock it is with --timezone")
        first = label.replace(tzinfo=zone).astimezone(UTC)
        if first.astimezone(zone).replace(tzinfo=None) != label:
            # The half-hour before the clocks jump may end at the moment they jump from.
            return first if self._form.label == "end" and _exists(label - HALF_HOUR, zone) else None
        second = label.replace(tzinfo=zone, fold=1).astimezone(UTC)
        if first != second and label in self._seen:
            return second
        if first != second:
            self._seen.add(label)
        return first


def _exists(label: datetime, zone: ZoneInfo) -> bool:
    """Whether clocks in a zone ever showed a time."""
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
    """The energy in a cell, kWh; None for an empty one."""
    if at is None or not (text := cells[at].strip()):
        return None
    plain = text if form.decimal == "." else text.replace(".", "?").replace(",", ".")
    # Decimal reads 1_000 and ١ as well, which nobody means in a file of readings.
    if not NUMBER.fullmatch(plain):
        comma = form.decimal == "." and NUMBER.fullmatch(text.replace(",", "."))
        hint = "; --decimal , reads a decimal comma" if comma else ""
        raise _Refusal(f"{text!r} is no number{hint}")
    value = Decimal(plain)
    if value < 0:
        raise _Refusal(f"{text} is negative; import and export are separate columns")
    if value * KWH_PER_UNIT[form.unit] > LARGEST_KWH:
        raise _Refusal(f"{text} {form.unit} is more than any circuit carries in half an hour")
    return (value * KWH_PER_UNIT[form.unit]).quantize(PLACES).normalize()
