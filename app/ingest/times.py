"""Texts of times: each becomes a wall-clock time without an offset, or a point in time."""

import re
from datetime import UTC, datetime, timedelta

import polars as pl

from app.ingest.bounds import FIRST_YEAR, LAST_YEAR, Bounds
from app.ingest.cells import INSTANT
from app.ingest.faults import Refusals
from app.ingest.options import ImportOptions
from app.ingest.values import row_minutes

WALL = pl.Datetime("us")
# Tried in this order; Python's own reader, which is slow, takes what is left.
WALL_FORMATS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M")
INSTANT_FORMATS = (
    "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M%z", "%Y-%m-%d %H:%M:%S%z", "%Y-%m-%d %H:%M%z",
    "%Y-%m-%dT%H:%M:%S%.f%z",
)  # fmt: skip
# Directives that Polars and Python read alike.
SHARED_DIRECTIVES = re.compile(r"([^%]|%[YmdHMS])*")
MIDNIGHT_AFTER = re.compile(r"(?<!\d)24:00(?::00)?\b")
# An interval in one cell: its start and its end.
RANGE = re.compile(r"(.+\d)\s+(?:to|bis|-|–|—)\s+(\S.*)|(\d{4}-\S+)/(\d{4}-\S+)")
EXCEL_EPOCH = datetime(1899, 12, 30)
LATEST_SERIAL = 73_051  # the day 2100-01-01
EARLIEST_SERIAL = 36_526  # the day 2000-01-01


def read_times(cells: pl.DataFrame, options: ImportOptions, refusals: Refusals) -> pl.DataFrame:
    """Add `wall` (wall-clock time) and `at` (UTC), one of which is null; refuse other texts."""
    if cells["at"].null_count() == 0:
        return _within_calendar(cells.with_columns(wall=pl.lit(None, WALL)), refusals)
    texts = cells["time"]
    wall = pl.Series(dtype=WALL, values=[None]).extend_constant(None, len(texts))[: len(texts)]
    at = wall.dt.replace_time_zone("UTC")
    form = options.time_format
    if form and SHARED_DIRECTIVES.fullmatch(form):
        wall = texts.str.to_datetime(form, strict=False, time_unit="us")
    elif not form:
        for tried in WALL_FORMATS:
            if wall.null_count():
                wall = wall.fill_null(_parsed(texts, tried, wall.is_null()))
        for tried in INSTANT_FORMATS:
            if (wall.is_null() & at.is_null()).any():
                at = at.fill_null(_parsed(texts, tried, wall.is_null() & at.is_null()))
    left = texts.filter(wall.is_null() & at.is_null()).unique().drop_nulls()
    found = [(text, *_read_range(text, form, options.label)) for text in left]
    read = pl.DataFrame(found, schema={"time": pl.String, "w": WALL, "a": INSTANT}, orient="row")
    cells = cells.with_columns(wall.alias("wall"), at.alias("at"))
    if read.height:
        cells = cells.join(read, on="time", how="left", maintain_order="left").with_columns(
            pl.col("wall").fill_null(pl.col("w")), pl.col("at").fill_null(pl.col("a"))
        )
        cells = cells.drop("w", "a")
    expected = form or "2026-01-31 13:30"
    cells = refusals.take(
        cells,
        pl.col("wall").is_null() & pl.col("at").is_null(),
        lambda row: f"{row['time'] or ''!r} is not a time like {expected}",
    )
    cells = _within_calendar(cells, refusals)
    if options.timezone is None:
        cells = refusals.take(
            cells,
            pl.col("wall").is_not_null(),
            lambda row: f"{row['time']} has no offset; give its time zone with --timezone",
        )
    elif options.number_column is not None or options.layout == "days":
        cells = _numbered(cells, options, refusals)
    return cells


def _numbered(cells: pl.DataFrame, options: ImportOptions, refusals: Refusals) -> pl.DataFrame:
    """Replace the dates of cells with a `number` by the times of these intervals of the day."""
    numbered = pl.col("number").is_not_null()
    zone = options.timezone
    length = pl.duration(minutes=row_minutes(options))
    start = day_in_utc(pl.col("wall"), zone) + (pl.col("number") - 1) * length
    stop = day_in_utc(pl.col("wall") + timedelta(days=1), zone)
    cells = cells.with_columns(begins=start, fits=(pl.col("number") >= 1) & (start < stop))
    cells = refusals.take(
        cells,
        numbered & ~pl.col("fits").fill_null(value=False),
        lambda row: f"{row['time']} has no interval {row['number']} in {zone}",
    )
    label = pl.col("begins") + length if options.label == "end" else pl.col("begins")
    return cells.with_columns(
        at=pl.when(numbered).then(label).otherwise(pl.col("at")),
        wall=pl.when(numbered).then(None).otherwise(pl.col("wall")),
    ).drop("begins", "fits")


def in_utc(wall: pl.Expr, zone: str | None) -> pl.Expr:
    """Return wall-clock times in UTC: null if skipped, the first of the two if repeated."""
    local = wall.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    return local.dt.convert_time_zone("UTC")


def day_in_utc(start: pl.Expr, zone: str | None) -> pl.Expr:
    """Return the starts of days in UTC; where a clock skips one, the moment at which it does."""
    second = timedelta(seconds=1)
    return in_utc(start, zone).fill_null(in_utc(start - second, zone) + second)


def _within_calendar(cells: pl.DataFrame, refusals: Refusals) -> pl.DataFrame:
    # Those a calendar away are refused before arithmetic with them leaves the calendar.
    year = pl.coalesce(pl.col("wall").dt.year(), pl.col("at").dt.year())
    return refusals.take(
        cells,
        ~year.is_between(FIRST_YEAR, LAST_YEAR),
        lambda row: Bounds().describe_time(row["time"], None),
    )


def _parsed(texts: pl.Series, form: str, where: pl.Series) -> pl.Series:
    """Return the times of texts in a format; null unless `where` is true and the format fits."""
    zoned = form.endswith("z")
    nothing = pl.Series(dtype=INSTANT if zoned else WALL, values=[None])
    sample = texts.filter(where).drop_nulls().head(1)
    if not len(sample) or _to_datetime(sample, form, zoned).null_count():
        return nothing.extend_constant(None, len(texts) - 1)
    return _to_datetime(texts, form, zoned)


def _to_datetime(texts: pl.Series, form: str, zoned: bool) -> pl.Series:
    zone = "UTC" if zoned else None
    return texts.str.to_datetime(form, strict=False, time_unit="us", time_zone=zone)


def _read_range(text: str, form: str | None, label: str) -> tuple[datetime | None, datetime | None]:
    """Return the time of a text as `_read` does, or of an interval the one that the label means."""
    found = _read(text, form)
    if found == (None, None) and (interval := RANGE.fullmatch(text)):
        start, end = (part for part in interval.groups() if part is not None)
        return _read(end if label == "end" else start, form)
    return found


def _read(text: str, form: str | None) -> tuple[datetime | None, datetime | None]:
    """Return a text's wall-clock time, or its point in time, or neither."""
    days = 0
    plain = MIDNIGHT_AFTER.sub("00:00", text)
    if plain != text:
        days = 1
    try:
        if form in (None, "unix", "unix-ms", "excel") and (number := _number(text, form)):
            return number
        if form in ("unix", "unix-ms", "excel"):
            return None, None
        time = datetime.strptime(plain, form) if form else datetime.fromisoformat(plain)
        time += timedelta(days=days)
        if time.tzinfo is None:
            return time, None
        return None, time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None, None


def _number(text: str, form: str | None) -> tuple[datetime | None, datetime | None] | None:
    """Return the time that a number stands for, if its size tells its kind."""
    if not re.fullmatch(r"\d+(\.\d+)?", text) or (len(text) == 8 and form is None):
        return None
    value = float(text)
    if form == "excel" or (form is None and EARLIEST_SERIAL <= value < LATEST_SERIAL):
        # To the second: a serial is a binary fraction of a day.
        return EXCEL_EPOCH + timedelta(seconds=round(value * 86400)), None
    if form == "unix" or (form is None and len(text.split(".")[0]) in (9, 10)):
        return None, datetime.fromtimestamp(value, UTC)
    if form == "unix-ms" or (form is None and len(text) in (12, 13)):
        return None, datetime.fromtimestamp(value / 1000, UTC)
    return None
