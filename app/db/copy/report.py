"""The findings of a copy: repairs, rows that are refused, and counts and sums on both sides."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any

NAMED_ROWS = 1000  # rows that a finding lists; it counts all of them
SHOWN_ROWS = 3  # rows of a finding that its text names

Sums = dict[str, Decimal | None]


@dataclass(frozen=True, slots=True)
class CopyFinding:
    """Rows of a table that are not copied as they are; `rows` are keys of the first of them.

    `kind` is `repaired`, `left out`, `refused` or `noted`.
    """

    kind: str
    table: str
    column: str
    text: str
    count: int
    rows: list[str]

    def __str__(self) -> str:
        """Return a sentence that names the table, the column and some of the rows."""
        where = f"{self.table}.{self.column}" if self.column else self.table
        named = ", ".join(self.rows[:SHOWN_ROWS])
        more = ", …" if self.count > SHOWN_ROWS else ""
        rows = f" ({self.count:,}: {named}{more})" if self.rows else f" ({self.count:,})"
        return f"{where}: {self.text}{rows if self.count else ''}"


@dataclass(slots=True)
class TableCount:
    """Rows and sums of a table there and here; `copied` is the number of rows written."""

    table: str
    copied: int = 0
    there: int = 0
    here: int = 0
    sums_there: Sums = field(default_factory=dict)
    sums_here: Sums = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        """True if both sides have the same rows and sums."""
        return self.there == self.here and self.sums_there == self.sums_here


@dataclass(slots=True)
class CopyReport:
    """All findings and counts of a copy."""

    findings: list[CopyFinding] = field(default_factory=list)
    counts: list[TableCount] = field(default_factory=list)
    seconds: float = 0.0

    def of(self, *kinds: str) -> Iterator[CopyFinding]:
        """Yield the findings of some kinds."""
        return (finding for finding in self.findings if finding.kind in kinds)

    def add(
        self,
        kind: str,
        table: str,
        column: str,
        text: str,
        count: int = 0,
        rows: list[str] | None = None,
    ) -> None:
        """Add a finding."""
        self.findings.append(CopyFinding(kind, table, column, text, count, rows or []))

    def as_json(self) -> dict[str, Any]:
        """Return the report for programs."""
        return {
            "tables": [asdict(count) | {"equal": count.equal} for count in self.counts],
            "findings": [asdict(finding) for finding in self.findings],
            "seconds": round(self.seconds, 1),
        }


class CopyRefused(Exception):  # noqa: N818  (the copy was refused)
    """Nothing was copied; the message is for the user, the report has every row."""

    def __init__(self, message: str, report: CopyReport | None = None) -> None:
        super().__init__(message)
        self.report = report or CopyReport()
