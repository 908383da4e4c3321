"""A file's way through the pipeline up to the database, which is replaced by a list."""

from dataclasses import dataclass, field
from datetime import datetime
from io import BytesIO
from typing import Any

import polars as pl

from app.ingest.faults import Refusals, Refused
from app.ingest.options import read_options
from app.ingest.pipeline import LARGEST_BYTES, stage_source
from app.ingest.profiles import with_profile
from app.ingest.source import open_source
from app.ingest.summary import ImportSummary
from app.ingest.values import TICKS_PER_KWH


@dataclass
class Staged:
    """The half-hours of a file, in the order of time, its refused rows, and the summary so far."""

    frames: list[pl.DataFrame] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    summary: ImportSummary = field(default_factory=ImportSummary)

    def stage(self, half_hours: pl.DataFrame) -> None:
        """Take half-hours as the loader does."""
        self.frames.append(half_hours)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The half-hours by time; energies in kWh."""
        frames = [frame.select(COLUMNS) for frame in self.frames if frame.height]
        rows = pl.concat(frames).sort("key", "timestamp", "line").to_dicts() if frames else []
        for row in rows:
            for name in ("import", "export"):
                row[name] = None if row[name] is None else row[name] / TICKS_PER_KWH
        return rows

    @property
    def imports(self) -> list[tuple[str, float]]:
        """The starts, as "10-26 00:30", and imported kWh of the half-hours."""
        return [(f"{row['timestamp']:%m-%d %H:%M}", row["import"]) for row in self.rows]

    @property
    def starts(self) -> list[str]:
        """The starts of the half-hours, as "10-26 00:30" in UTC."""
        return [start for start, _ in self.imports]


COLUMNS = ("key", "line", "timestamp", "import", "export", "minutes", "estimated")


def staged(content: str | bytes, **given: Any) -> Staged:
    """Read a file's text or bytes; FormatError if it does not fit the options."""
    found, refusals, options = Staged(), Refusals(), read_options(**given)
    data = BytesIO(content.encode() if isinstance(content, str) else content)
    with open_source(data, options, largest=LARGEST_BYTES) as source:
        options = with_profile(source, options)
        stage_source(source, options, found, refusals, found.summary)
    found.refused = sorted(refusals.rows, key=lambda row: row.line)
    return found


def utc(text: str) -> datetime:
    """Return a time in ISO 8601 with an offset."""
    return datetime.fromisoformat(text)
