"""Frames as JSON, CSV, NDJSON, Parquet and Arrow: each format's writer of a body."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import orjson
import polars as pl

from app.energy.formats import Format
from app.energy.parameters import FormatName

# The columns that describe an interval, the same for each of its groups.
INTERVAL = ("interval_start", "interval_end", "partial", "expected_intervals")
# The columns of times, of all reports and lists.
TIME_COLUMNS = frozenset({
    "interval_start", "interval_end", "available_from", "available_to",
    "balance_updated_at", "last_healthy_at", "state_updated_at", "since",
})  # fmt: skip
# Characters of 2026-10-25T01:30:00 and of +01:00.
SECONDS, OFFSET = 19, 6
# At the end of an Arrow stream; before each of its messages stands the first half, and a length.
END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
MESSAGE_PREFIX = 8
# More rows than a frame has, for writers that keep all until the end.
KEPT_ROWS = 1_000_000
# Text and lists as every reader of Arrow knows them.
COMPATIBLE = pl.CompatLevel.oldest()


class BodyWriter:
    """Writes a body: `begin`, then `add` for each frame, of which there is one at least, `end`.

    `members` are those of a JSON object beside its rows; other formats have no place for them.
    """

    # Rows written at a time, in well below a millisecond. Their bytes are fewer than those that
    # malloc takes from the system for each piece anew (`app.memory`): to touch new pages costs
    # more than to write the rows.
    ROWS: ClassVar[int] = 500

    def begin(self, members: Mapping[str, Any]) -> bytes:
        """Return what precedes the rows."""
        return b""

    def add(self, frame: pl.DataFrame) -> bytes:
        """Return the rows of a frame; the columns of all frames are the same."""
        raise NotImplementedError

    def end(self, members: Mapping[str, Any]) -> bytes:
        """Return what follows the rows."""
        return b""


class JsonWriter(BodyWriter):
    """An object whose member `rows` is a list of objects."""

    def __init__(self) -> None:
        self._separator = b""

    def begin(self, members: Mapping[str, Any]) -> bytes:
        """Return the object's first members, and the beginning of its rows."""
        return orjson.dumps(members)[:-1] + b',"rows":['

    def add(self, frame: pl.DataFrame) -> bytes:
        """Return the rows, after a separator if others went before."""
        if frame.is_empty():
            return b""
        file = io.BytesIO()
        frame.write_json(file)
        with file.getbuffer() as array:
            rows = b"".join((self._separator, array[1:-1]))
        self._separator = b",\n"
        return rows

    def add_few(self, rows: Sequence[Mapping[str, Any]]) -> bytes:
        """Return few rows, all that there are, which are no frame."""
        return orjson.dumps(rows)[1:-1]

    def end(self, members: Mapping[str, Any]) -> bytes:
        """Return the end of the rows, and the object's last members."""
        return b"]" + _last(members)


class ColumnsWriter(BodyWriter):
    """An object with one array for each field instead of one object for each row.

    Rows of groups and intervals become `intervals`, an object with an array for each column of
    `INTERVAL`, and `groups`, a list of objects: a group's keys, and an array for each other column
    with a value for each interval. Other rows become `columns`, an object of arrays.
    """

    ROWS = KEPT_ROWS

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = keys
        self._frames: list[pl.DataFrame] = []

    def begin(self, members: Mapping[str, Any]) -> bytes:
        """Return the object's first members."""
        return orjson.dumps(members)[:-1]

    def add(self, frame: pl.DataFrame) -> bytes:
        """Keep the frame for the end."""
        self._frames.append(frame)
        return b""

    def end(self, members: Mapping[str, Any]) -> bytes:
        """Return the arrays, and the object's last members."""
        rows = pl.concat(self._frames)
        if not self._keys:
            return b',"columns":' + _arrays(rows) + _last(members)
        intervals = rows.select(INTERVAL).unique(maintain_order=True)
        groups = rows.drop(INTERVAL).group_by(self._keys, maintain_order=True).all()
        written = groups.write_json().encode()
        return b',"intervals":' + _arrays(intervals) + b',"groups":' + written + _last(members)


class CsvWriter(BodyWriter):
    """Lines of values, the first of which has the names of the columns."""

    def __init__(self, *, local_times: bool = False) -> None:
        self._is_first = True
        self._local_times = local_times

    def add(self, frame: pl.DataFrame) -> bytes:
        """Return the lines of the rows."""
        if self._local_times:
            frame = with_local_times(frame)
        file = io.BytesIO()
        frame.write_csv(file, include_header=self._is_first, line_terminator="\r\n")
        self._is_first = False
        return file.getvalue()


class NdjsonWriter(BodyWriter):
    """A line with a JSON object for each row."""

    def add(self, frame: pl.DataFrame) -> bytes:
        """Return the lines of the rows."""
        file = io.BytesIO()
        frame.write_ndjson(file)
        return file.getvalue()


class ArrowWriter(BodyWriter):
    """Arrow's stream of batches."""

    ROWS = 1000  # a batch has a head for each column

    def __init__(self) -> None:
        self._is_first = True

    def add(self, frame: pl.DataFrame) -> bytes:
        """Return the batches of the rows, the first time after the schema."""
        file = io.BytesIO()
        frame.rechunk().write_ipc_stream(file, compat_level=COMPATIBLE)
        stream = file.getvalue().removesuffix(END_OF_STREAM)
        if self._is_first:
            self._is_first = False
            return stream
        # Each frame is written as a stream of its own, that begins with the message of the schema.
        return stream[MESSAGE_PREFIX + int.from_bytes(stream[4:MESSAGE_PREFIX], "little") :]

    def end(self, members: Mapping[str, Any]) -> bytes:
        """Return the end of the stream."""
        return END_OF_STREAM


class ParquetWriter(BodyWriter):
    """A Parquet file, whose end names the place of every column."""

    ROWS = KEPT_ROWS

    def __init__(self) -> None:
        self._frames: list[pl.DataFrame] = []

    def add(self, frame: pl.DataFrame) -> bytes:
        """Keep the frame for the end."""
        self._frames.append(frame)
        return b""

    def end(self, members: Mapping[str, Any]) -> bytes:
        """Return the file."""
        file = io.BytesIO()
        pl.concat(self._frames).write_parquet(file, compression_level=1)
        return file.getvalue()


WRITERS: dict[FormatName, Callable[[], BodyWriter]] = {
    "json": JsonWriter,
    "csv": CsvWriter,
    "ndjson": NdjsonWriter,
    "arrow": ArrowWriter,
    "parquet": ParquetWriter,
}


def writer(form: Format, keys: Sequence[str]) -> BodyWriter:
    """Return a writer of one body; `keys` name the groups of rows of groups and intervals."""
    if form.name == "columns":
        return ColumnsWriter(keys)
    return CsvWriter(local_times=True) if form.local_times else WRITERS[form.name]()


def with_local_times(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame with each time, an ISO text, as a local time and its offset.

    The offset begins with UTC, because a spreadsheet would run a cell that begins with a sign.
    """
    columns: list[pl.Series] = []
    for column in frame:
        if column.name not in TIME_COLUMNS:
            columns.append(column)
            continue
        columns.append(column.str.slice(0, SECONDS).str.replace("T", " ", literal=True))
        columns.append(("UTC" + column.str.slice(-OFFSET)).alias(f"{column.name}_offset"))
    return pl.DataFrame(columns)


def _arrays(frame: pl.DataFrame) -> bytes:
    """Return an object with one array for each column."""
    return frame.select(pl.all().implode()).write_json()[1:-1].encode()


def _last(members: Mapping[str, Any]) -> bytes:
    """Return the last members of an object, and its end."""
    return b"," + orjson.dumps(members)[1:] if members else b"}"
