"""The layout `espi`: Green Button data, an Atom feed of interval blocks (NAESB ESPI)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, TextIO
from xml.parsers import expat

import polars as pl

from app.ingest.cells import ReadCounts, as_cells
from app.ingest.faults import FormatError, Refusals
from app.ingest.nem import chosen, key_of
from app.ingest.options import ImportOptions
from app.ingest.source import SourceFile

PIECE = 1 << 18
READINGS_AT_ONCE = 50_000
UNITS_BY_CODE = {"72": "Wh", "38": "W"}
DIRECTIONS_BY_CODE = {"1": "import", "19": "export"}  # delivered, and received
COUNTERS = {"1", "3"}  # accumulation: bulk quantity, cumulative
DEEPEST = 64  # of elements in one another; Green Button has eight
POWER_OF_TEN = re.compile("[+-]?[0-9]{1,2}")
SECONDS = re.compile("[0-9]{1,12}")
ESTIMATED = {"8", "9", "12"}  # quality: two kinds of estimates, and projections


@dataclass(slots=True)
class ReadingType:
    """A kind of values: its unit with a power of ten, and its direction."""

    unit: str = ""
    power: int = 0
    direction: str = "1"
    accumulation: str = ""
    seconds: str = ""


@dataclass(slots=True)
class Entry:
    """An entry of the feed: its own address, the addresses that it relates to, its values."""

    address: str = ""
    related: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    content: str = ""
    # The meter reading of its values, and that with its customer and usage point, found at the
    # first one.
    meter_reading: str | None = None
    fields: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Reading:
    """A value of an interval, as it stands in the file."""

    line: int
    start: str = ""
    duration: str = ""
    value: str = ""
    quality: str = ""


class Origins:
    """The usage points and meter readings that the energy of each key comes from."""

    def __init__(self) -> None:
        self._points: dict[str | None, str] = {}
        self._spans: dict[tuple[str | None, str], dict[str, tuple[int, int]]] = {}

    def note(self, key: str | None, fields: dict[str, str], start: int, seconds: int) -> None:
        """Note a reading, its start in Unix seconds; FormatError for a second usage point."""
        point = point_of(fields)
        other = self._points.setdefault(key, point)
        if other != point:
            by = "usage_point" if other.startswith(f"{fields['customer']}/") else "customer"
            raise FormatError(
                f"{other!r} and {point!r} are two usage points: choose one with --where"
                f" {by}={fields[by]}, or map both with --map '{point}=REGISTER'"
            )
        spans = self._spans.setdefault((key, fields["direction"]), {})
        first, last = spans.get(fields["meter_reading"], (start, start + seconds))
        spans[fields["meter_reading"]] = min(first, start), max(last, start + seconds)

    def refuse_overlaps(self) -> None:
        """Refuse meter readings of the same time, as of hours and days; FormatError names two."""
        for (_, direction), spans in self._spans.items():
            in_time = sorted((first, last, name) for name, (first, last) in spans.items())
            for (_, last, one), (first, _, other) in pairwise(in_time):
                if first < last:
                    raise FormatError(
                        f"the meter readings {one!r} and {other!r} both have {direction} of the"
                        f" same time: choose one with --where meter_reading={one}"
                    )


def point_of(fields: dict[str, str]) -> str:
    """Return the usage point of a reading with its customer, as customer/point."""
    return f"{fields['customer']}/{fields['usage_point']}"


class Feed:
    """Reads a feed, piece by piece; `on_block` is called for each reading of its entry."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.readings: list[tuple[Entry, Reading]] = []
        self._entry = Entry()
        self._reading: Reading | None = None
        self._path: list[str] = []
        self._text = ""
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._data
        self._parser.EntityDeclHandler = self._refuse_entity

    def feed(self, text: str, *, final: bool = False) -> None:
        """Read a piece of the text; FormatError if it is not XML."""
        try:
            self._parser.Parse(text, final)
        except expat.ExpatError as error:
            raise FormatError(f"line {error.lineno} is not XML: {error}") from None

    def _refuse_entity(self, *_: Any) -> None:
        raise FormatError("the XML declares entities, which no Green Button file needs")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        tag = name.rsplit(" ", 1)[-1]
        self._path.append(tag)
        if len(self._path) > DEEPEST:
            raise FormatError(f"the XML has elements {DEEPEST} deep in one another")
        self._text = ""
        if tag == "entry":
            self._entry = Entry()
        elif tag == "link":
            address = attributes.get("href", "").rstrip("/")
            if attributes.get("rel") == "self":
                self._entry.address = address
            else:
                self._entry.related.append(address)
        elif tag == "IntervalReading":
            self._reading = Reading(self._parser.CurrentLineNumber)
        elif "content" in self._path and not self._entry.content and tag != "content":
            self._entry.content = tag

    def _data(self, text: str) -> None:
        self._text += text

    def _end(self, name: str) -> None:
        tag = self._path.pop()
        text = self._text.strip()
        self._text = ""
        if self._reading is not None:
            if tag == "IntervalReading":
                self.readings.append((self._entry, self._reading))
                self._reading = None
            elif tag in ("start", "duration", "value", "quality"):
                setattr(self._reading, tag, text)
        elif tag == "entry":
            self.entries.append(self._entry)
        elif "entry" in self._path and text:
            self._entry.values.setdefault(tag, text)


def read_espi(
    source: SourceFile, options: ImportOptions, refusals: Refusals, counts: ReadCounts
) -> Iterator[pl.DataFrame]:
    """Yield the cells of a Green Button feed, read twice: for its types and its values."""
    types, readings_of = _types(source.text)
    source.text.seek(0)
    feed, place, origins = Feed(), 0, Origins()
    for final in _pieces(source.text, feed):
        if len(feed.readings) >= READINGS_AT_ONCE or final:
            rows = [
                row
                for entry, reading in feed.readings
                if (row := _row(entry, reading, types, readings_of, options, origins)) is not None
            ]
            counts.read += len(feed.readings)
            counts.ignored += len(feed.readings) - len(rows)
            feed.readings.clear()
            feed.entries.clear()
            cells = refusals.take(
                _cells(rows, place),
                pl.col("minutes") == 0,
                lambda row: "has no duration of whole minutes",
            )
            yield cells
            place += len(rows)
    if counts.read == 0:
        raise FormatError("the feed has no interval readings")
    origins.refuse_overlaps()


def _pieces(text: TextIO, feed: Feed) -> Iterator[bool]:
    """Feed the text piece by piece; yield after each, true after the last."""
    while piece := text.read(PIECE):
        feed.feed(piece)
        yield False
    feed.feed("", final=True)
    yield True


def _types(text: TextIO) -> tuple[dict[str, ReadingType], dict[str, str]]:
    """Return the reading types by their addresses, and the type's address of each meter reading."""
    feed, types = Feed(), {}
    related: dict[str, list[str]] = {}
    for _ in _pieces(text, feed):
        feed.readings.clear()
        for entry in feed.entries:
            if entry.content == "ReadingType":
                values = entry.values
                types[entry.address] = ReadingType(
                    values.get("uom", ""),
                    _power(values.get("powerOfTenMultiplier", "0")),
                    values.get("flowDirection", "1"),
                    values.get("accumulationBehaviour", ""),
                    values.get("intervalLength", ""),
                )
            elif entry.content == "MeterReading":
                related[entry.address] = entry.related
        feed.entries.clear()
    return types, {
        reading: address
        for reading, addresses in related.items()
        for address in addresses
        if address in types
    }


def _row(
    entry: Entry,
    reading: Reading,
    types: dict[str, ReadingType],
    readings_of: dict[str, str],
    options: ImportOptions,
    origins: Origins,
) -> dict[str, Any] | None:
    """Return a reading as a row; None for one that is no energy, or not asked for."""
    if entry.meter_reading is None:
        # A block is below its meter reading: …/MeterReading/7/IntervalBlock/1.
        entry.meter_reading = re.sub(r"/IntervalBlock(/[^/]*)?$", "", entry.address)
        if entry.meter_reading not in readings_of:
            entry.meter_reading = next((a for a in entry.related if a in readings_of), "")
    meter_reading = entry.meter_reading
    kind = types.get(readings_of.get(meter_reading, ""))
    if kind is None and len(types) == 1:
        kind = next(iter(types.values()))
    if kind is None:
        raise FormatError(f"line {reading.line}: the feed does not say what its values are")
    unit, direction = UNITS_BY_CODE.get(kind.unit), DIRECTIONS_BY_CODE.get(kind.direction)
    entry.fields = entry.fields or _fields(entry, meter_reading)
    fields = entry.fields | {"direction": direction or ""}
    if unit is None or direction is None or not chosen(fields, options):
        return None
    if kind.accumulation in COUNTERS and not options.reads:
        raise FormatError(
            "the feed has readings of a counter, not energy of intervals; --reads takes them"
        )
    point = point_of(fields)
    key = point if point in options.map else key_of(fields, options)
    seconds = reading.duration or kind.seconds
    if SECONDS.fullmatch(reading.start) and SECONDS.fullmatch(seconds):
        origins.note(key, fields, int(reading.start), int(seconds))
    return {
        "line": reading.line, "key": key, "series": f"{key or ''} {direction}",
        "start": reading.start, "duration": seconds,
        direction: f"{reading.value}e{kind.power}" if reading.value else None, "unit": unit,
        "estimated": reading.quality in ESTIMATED,
    }  # fmt: skip


def _fields(entry: Entry, meter_reading: str) -> dict[str, str]:
    """Return what the addresses of a reading say it belongs to; the key of registers is first."""
    addresses = (entry.address, meter_reading, *entry.related)

    def find(name: str) -> str:
        matches = (re.search(rf"\b(?:{name})/([^/]+)", address) for address in addresses)
        return next((found[1] for found in matches if found), "")

    return {
        "usage_point": find("UsagePoint"),
        "customer": find("RetailCustomer|User"),
        "meter_reading": find("MeterReading"),
    }


def _cells(rows: list[dict[str, Any]], place: int) -> pl.DataFrame:
    names = ("line", "key", "series", "import", "export", "unit", "estimated")
    frame = pl.DataFrame(
        {name: [row.get(name) for row in rows] for name in names}
        | {
            "time": [row["start"] for row in rows],
            "at": [_moment(row["start"]) for row in rows],
            "minutes": [_minutes(row["duration"]) for row in rows],
            "place": list(range(place, place + len(rows))),
        },
        schema_overrides={
            "import": pl.String, "export": pl.String, "key": pl.String, "series": pl.String,
            "at": pl.Datetime("us", "UTC"), "minutes": pl.Int64, "line": pl.Int64,
            "estimated": pl.Boolean, "unit": pl.String, "time": pl.String, "place": pl.Int64,
        },
    )  # fmt: skip
    return as_cells(frame)


def _moment(text: str) -> datetime | None:
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=int(text))
    except (ValueError, OverflowError):
        return None


def _minutes(text: str) -> int | None:
    """Return a duration in minutes; None if it is not said, so that the steps decide; 0 if odd."""
    if not text:
        return None
    return int(text) // 60 if SECONDS.fullmatch(text) and int(text) % 60 == 0 else 0


def _power(text: str) -> int:
    """Return the power of ten that values are multiplied with."""
    if not POWER_OF_TEN.fullmatch(text):
        raise FormatError(f"{text[:20]!r} is no power of ten that energy is told in")
    return int(text)
