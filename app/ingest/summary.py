"""The outcome of an import."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from app.ingest.faults import Refused
from app.ingest.preview import Preview


@dataclass(slots=True)
class RegisterSummary:
    """The outcome for one register: half-hours (or readings) and the energy in them, kWh."""

    register_id: UUID
    key: str | None = None
    half_hours: int = 0
    written: int = 0
    import_kwh: Decimal | None = None
    export_kwh: Decimal | None = None
    period_from: datetime | None = None
    period_to: datetime | None = None


@dataclass(slots=True)
class ImportSummary:
    """The outcome of an import. If `refused` is not empty, nothing was written.

    `read` counts rows of the file, all others half-hours. `ignored` are rows that options leave
    out. `missing` are those between the first
    and the last of a register that the file does not have; `incomplete` those of which it has only
    a part; `skipped` zeros at wall-clock times that do not exist; `unknown` rows whose value is a
    word for null; `once` those in a repeated hour that the file has once, taken as before the clock
    change; `estimated` those marked as estimates, of which `kept` did not replace measured ones;
    `without_circuit` those at times when the register has no circuit, so that no circuit shows
    them. `found` tells what was found out about the file; `preview` is that of a dry run.
    """

    read: int = 0
    ignored: int = 0
    half_hours: int = 0
    written: int = 0
    unchanged: int = 0
    skipped: int = 0
    missing: int = 0
    incomplete: int = 0
    unknown: int = 0
    once: int = 0
    estimated: int = 0
    kept: int = 0
    without_circuit: int = 0
    interval: str | None = None
    found: list[str] = field(default_factory=list)
    period_from: datetime | None = None
    period_to: datetime | None = None
    registers: list[RegisterSummary] = field(default_factory=list)
    refused_rows: int = 0
    refused: list[Refused] = field(default_factory=list)
    preview: Preview | None = None
