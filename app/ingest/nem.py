"""The layouts `nem12` and `nem13`: Australian metering data, in market time (UTC+10, no summer).

NEM12 has a block of days for each data stream of a supply point (NMI), NEM13 pairs of counter
readings. Libraries for it read whole files into data frames and pass over what they do not know;
here each row is taken or refused with its line.
"""

import csv
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import TextIO

import polars as pl

from app.ingest.cells import ReadCounts, as_cells
from app.ingest.faults import FormatError, Refusals
from app.ingest.options import ImportOptions
from app.ingest.source import SourceFile

MARKET = timezone(timedelta(hours=10))
# The first letter of a stream's suffix: energy of the main meter from and into the grid. Others are
# check meters, reactive energy, and averages.
DIRECTIONS_OF_SUFFIX = {"E": "import", "B": "export"}
DIRECTIONS_OF_READINGS = {"E": "import", "I": "export"}  # from and into the grid
UNIT_NAMES = {"kwh": "kWh", "wh": "Wh", "mwh": "MWh"}
# The first letter of a quality: estimated, and substituted for good or until further notice.
ESTIMATES = {"E", "F", "S"}
UNKNOWN = "N"
VARIES = "V"
DAY_MINUTES = 1440
DAYS_AT_ONCE = 2_000
SeenStreams = dict[tuple[str | None, str], str]  # key and direction → the stream they come from


class _Stream:
    """A data stream of NEM12: its supply point, direction, unit and interval."""

    def __init__(self, row: list[str], options: ImportOptions) -> None:
        names = ("nmi", "suffix", "serial", "unit", "minutes")
        fields = dict(zip(names, (row[1], row[4], row[6], row[7], row[8]), strict=True))
        self.fields = {name: value.strip() for name, value in fields.items()}
        self.suffix = self.fields["suffix"].upper()
        self.direction = DIRECTIONS_OF_SUFFIX.get(self.suffix[:1])
        self.unit = UNIT_NAMES.get(self.fields["unit"].casefold())
        self.minutes = int(self.fields["minutes"])
        if not 1 <= self.minutes <= DAY_MINUTES:
            raise ValueError(self.minutes)
        self.taken = (
            self.direction is not None and self.unit is not None and chosen(self.fields, options)
        )
        self.key = key_of(self.fields, options)
        self.series = f"{self.fields['nmi']} {self.suffix}"
        if self.series in options.map:
            self.key = self.series


def chosen(fields: dict[str, str], options: ImportOptions) -> bool:
    """Return whether `where` asks for a stream with these fields."""
    for column in {column for column, _ in options.where}:
        if column not in fields:
            raise FormatError(f"there is no field {column!r}; there are: {', '.join(fields)}")
        values = [value for name, value in options.where if name == column]
        if fields[column] not in values:
            return False
    return True


def key_of(fields: dict[str, str], options: ImportOptions) -> str | None:
    """Return the key of a stream's register, its first field; None if one register takes all."""
    if options.register_id is not None:
        return None
    name = options.serial_column or next(iter(fields))
    if name not in fields:
        raise FormatError(f"there is no field {name!r}; there are: {', '.join(fields)}")
    return fields[name]


def read_nem12(
    source: SourceFile, options: ImportOptions, refusals: Refusals, counts: ReadCounts
) -> Iterator[pl.DataFrame]:
    """Yield the cells of a NEM12 file."""
    stream: _Stream | None = None
    seen: SeenStreams = {}
    days: list[dict[str, object]] = []
    place = 0
    for line, row in _records(source.text):
        kind = row[0].strip()
        if kind == "200":
            try:
                stream = _Stream(row, options)
            except (IndexError, ValueError):
                raise FormatError(f"line {line} describes no data stream") from None
            if stream.taken:
                refuse_two_streams(
                    stream.key, stream.direction, stream.series, f"suffix={stream.suffix}", seen
                )
        elif kind == "300":
            counts.read += 1
            if stream is None:
                raise FormatError(f"line {line} has a day before any data stream (200)")
            if len(days) >= DAYS_AT_ONCE:
                yield (cells := _cells(days, place))
                place += cells.height
                days = []
            day = _day(line, row, stream, refusals)
            if day is not None and stream.taken:
                days.append(day)
            else:
                counts.ignored += day is not None
        elif kind == "400" and days and stream is not None and stream.taken:
            _apply_quality(row, days[-1], line)
        elif kind not in ("100", "400", "500", "900"):
            raise FormatError(f"line {line} is no record of NEM12: {kind[:20]!r}")
    yield _cells(days, place)


def refuse_two_streams(
    key: str | None, direction: str | None, series: str, choice: str, seen: SeenStreams
) -> None:
    """Refuse a second stream of one key and direction; `choice` is the option that takes it."""
    other = seen.setdefault((key, direction or ""), series)
    if other != series:
        raise FormatError(
            f"{other!r} and {series!r} are both {direction}: choose one with --where {choice},"
            f" or map both with --map '{series}=REGISTER'"
        )


def _records(text: TextIO) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(text, strict=True)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield reader.line_num, row
    except csv.Error as error:
        raise FormatError(f"line {reader.line_num} is not CSV: {error}") from error


def _day(
    line: int, row: list[str], stream: _Stream, refusals: Refusals
) -> dict[str, object] | None:
    many = DAY_MINUTES // stream.minutes
    if len(row) < 3 + many:
        refusals.add(line, f"has {len(row) - 2} fields, {many} values and their quality are needed")
        return None
    try:
        start = datetime.strptime(row[1].strip(), "%Y%m%d").replace(tzinfo=MARKET).astimezone(UTC)
    except (ValueError, OverflowError):  # the first day of the first year is in none in UTC
        refusals.add(line, f"{row[1]!r} is not a date like 20260131")
        return None
    quality = row[2 + many].strip()[:1].upper()
    if quality not in {"A", VARIES, UNKNOWN} | ESTIMATES:
        refusals.add(line, f"{row[2 + many]!r} is no quality known")
        return None
    values: list[str] = [value.strip() for value in row[2 : 2 + many]]
    return {
        "line": line, "key": stream.key, "series": stream.series, "start": start,
        "day": row[1].strip(), "direction": stream.direction, "unit": stream.unit,
        "minutes": stream.minutes, "interval": list(range(many)),
        "value": ["null"] * many if quality == UNKNOWN else values,
        "estimated": [quality in ESTIMATES] * many,
    }  # fmt: skip


def _apply_quality(row: list[str], day: dict[str, object], line: int) -> None:
    """Mark the intervals of a day whose quality a record 400 tells."""
    try:
        first, last, quality = int(row[1]), int(row[2]), row[3].strip()[:1].upper()
    except (IndexError, ValueError):
        raise FormatError(f"line {line} tells no quality of intervals") from None
    values, estimated = day["value"], day["estimated"]
    if not isinstance(values, list) or not isinstance(estimated, list):
        return
    if not 1 <= first <= last <= len(values):
        raise FormatError(f"line {line} tells the quality of intervals that the day does not have")
    for at in range(first - 1, last):
        estimated[at] = quality in ESTIMATES
        if quality == UNKNOWN:
            values[at] = "null"


def _cells(days: list[dict[str, object]], place: int) -> pl.DataFrame:
    names = ("line", "key", "series", "start", "day", "direction", "unit", "minutes", "interval",
             "value", "estimated")  # fmt: skip
    schema: dict[str, pl.DataType | type[pl.DataType]] = {
        "line": pl.Int64, "key": pl.String, "series": pl.String, "start": pl.Datetime("us", "UTC"),
        "day": pl.String, "direction": pl.String, "unit": pl.String, "minutes": pl.Int64,
        "interval": pl.List(pl.Int64), "value": pl.List(pl.String),
        "estimated": pl.List(pl.Boolean),
    }  # fmt: skip
    frame = pl.DataFrame({name: [day[name] for day in days] for name in names}, schema=schema)
    frame = frame.explode("interval", "value", "estimated")
    passed = pl.duration(minutes=pl.col("interval") * pl.col("minutes"))
    return as_cells(
        frame.with_columns(
            pl.int_range(place, place + pl.len()).alias("place"),
            at=pl.col("start") + passed,
            time=pl.format("{} interval {}", "day", pl.col("interval") + 1),
            **{
                name: pl.when(pl.col("direction") == name).then(pl.col("value"))
                for name in ("import", "export")
            },
        )
    )


def read_nem13(
    source: SourceFile, options: ImportOptions, refusals: Refusals, counts: ReadCounts
) -> Iterator[pl.DataFrame]:
    """Yield the readings in a NEM13 file: the previous and the current one of each record."""
    readings: dict[tuple[str | None, str, str, str], tuple[int, str, bool]] = {}
    seen: SeenStreams = {}
    meters: dict[tuple[str | None, str], str] = {}
    for line, row in _records(source.text):
        kind = row[0].strip()
        if kind == "250":
            counts.read += 1
            if len(row) < 20:
                refusals.add(line, f"has {len(row)} fields, 20 are needed")
                continue
            fields = {"nmi": row[1].strip(), "suffix": row[4].strip(), "serial": row[6].strip()}
            series = f"{fields['nmi']} {fields['suffix']}"
            direction = DIRECTIONS_OF_READINGS.get(row[7].strip().upper())
            unit = UNIT_NAMES.get(row[19].strip().casefold())
            if direction is None or unit is None or not chosen(fields, options):
                counts.ignored += 1
                continue
            # Counters of one meter, as of day and of night, are read at the same times.
            key = series if series in options.map else key_of(fields, options)
            refuse_two_streams(key, direction, series, f"suffix={fields['suffix']}", seen)
            meter = meters.setdefault((key, direction), fields["serial"])
            if meter != fields["serial"]:
                raise FormatError(
                    f"{series!r} has the counters of two meters: choose one with --where"
                    f" serial={fields['serial']}, or name registers by both with --serial-column"
                    " serial"
                )
            for value, time, quality in ((8, 9, 10), (13, 14, 15)):
                of = (key, direction, unit, row[time].strip())
                read = (row[value].strip(), row[quality].strip()[:1].upper() in ESTIMATES)
                known = readings.setdefault(of, (line, *read))
                if known[1] != read[0]:
                    refusals.add(line, f"contradicts the reading at {of[3]} in line {known[0]}")
        elif kind not in ("100", "550", "900"):
            raise FormatError(f"line {line} is no record of NEM13: {kind[:20]!r}")
    rows = [
        (line, key, f"{key} {direction}", time, unit, _market_time(time), estimated,
         value if direction == "import" else None, value if direction == "export" else None)
        for (key, direction, unit, time), (line, value, estimated) in readings.items()
    ]  # fmt: skip
    names = ("line", "key", "series", "time", "unit", "at", "estimated", "import", "export")
    types = (pl.Int64, pl.String, pl.String, pl.String, pl.String, pl.Datetime("us", "UTC"),
             pl.Boolean, pl.String, pl.String)  # fmt: skip
    frame = pl.DataFrame(rows, schema=dict(zip(names, types, strict=True)), orient="row")
    yield as_cells(frame.with_columns(pl.int_range(0, pl.len()).alias("place")))


def _market_time(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=MARKET).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
