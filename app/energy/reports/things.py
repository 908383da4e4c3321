"""Lists of circuits, meters, properties, sites and ESCOs: everything that other paths take."""

import hashlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import ClassVar
from zoneinfo import ZoneInfo

import polars as pl

from app.db.session import Connection
from app.energy.formats import Format
from app.energy.frames import Clock
from app.energy.query import Statement
from app.energy.reading import Schema, read_frame
from app.energy.response import DataVersion, RenderedReport, Report, ReportRequest
from app.energy.sql_files import read_sql

AVAILABILITY = ("available_from", "available_to")


@dataclass(frozen=True, slots=True)
class ThingsReport(Report):
    """A validated request for a list; `kind` names it and its SQL."""

    kind: str
    zone: ZoneInfo

    # List → its columns; the rows are in order of the first, which other paths take.
    COLUMNS: ClassVar[dict[str, tuple[str, ...]]] = {
        "circuits": (
            "circuit", "circuit_name", "circuit_type", "site", "site_code", "esco", *AVAILABILITY,
        ),
        "meters": (
            "meter", "meter_name", "meter_id", "site", "site_code", "properties", "esco",
            *AVAILABILITY,
        ),
        "properties": ("property", "property_plot", "site", "site_code", "esco"),
        "sites": ("site", "site_code", "site_name", "esco"),
        "escos": ("esco", "esco_name", "esco_id"),
    }  # fmt: skip

    async def render(
        self, request: ReportRequest, connection: Connection, version: DataVersion
    ) -> RenderedReport:
        """Read the list, whose content is its version."""
        schema: Schema = {
            name: pl.Int64 if name in AVAILABILITY else pl.String
            for name in self.COLUMNS[self.kind]
        }
        found = await read_frame(connection, Statement(read_sql(self.kind), {}), schema)
        found = found.sort(found.columns[0])
        content = hashlib.sha256(found.write_json().encode()).hexdigest()
        frames = self._frames(request.format, found)
        return RenderedReport(frames, {"timezone": self.zone.key}, version=content)

    async def _frames(
        self, form: Format, found: pl.DataFrame
    ) -> AsyncGenerator[pl.DataFrame, None]:
        clock = Clock(self.zone, form)
        yield pl.DataFrame(
            [
                clock.times(column)
                if column.name in AVAILABILITY
                else pl.Series(column.name, map(form.text, column), dtype=pl.String)
                for column in found
            ]
        )
