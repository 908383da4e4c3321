"""Output of `flows import`: the summary, refused rows, and the preview of a dry run."""

from datetime import UTC, datetime
from decimal import Decimal
from itertools import groupby

from app.cli.output import echo
from app.ingest.preview import DaySum, Preview, bars
from app.ingest.summary import ImportSummary

REFUSALS_SHOWN = 20
REGISTERS_SHOWN = 20
DAYS_SHOWN = 35


def show_summary(summary: ImportSummary) -> None:
    """Print the outcome of an import for a person."""
    if summary.found:
        echo(f"found: {', '.join(summary.found)}")
    if summary.refused:
        _show_refused(summary)
        return
    written = "written" if summary.preview is None else "written (a dry run writes nothing)"
    always = {
        "rows read": summary.read,
        written: summary.written,
        "unchanged": summary.unchanged,
        "skipped (a time that does not exist, zero energy)": summary.skipped,
        "missing from the file": summary.missing,
    }
    sometimes = {
        "rows left out by --where or --quantity": summary.ignored,
        "of which the file has only a part, not written": summary.incomplete,
        "rows with a word for an unknown value": summary.unknown,
        "once in an hour that clocks repeat, taken as before the change": summary.once,
        "marked as estimates": summary.estimated,
        "estimates that did not replace a measurement": summary.kept,
    }
    for text, count in (always | {text: n for text, n in sometimes.items() if n}).items():
        echo(f"{count:>9,}  {text}")
    if len(summary.registers) > 1:
        for register in summary.registers[:REGISTERS_SHOWN]:
            key = f" ({register.key})" if register.key else ""
            sums = _energies(register.import_kwh, register.export_kwh)
            echo(f"{register.half_hours:>9,}  of {register.register_id}{key}: {sums}")
        if len(summary.registers) > REGISTERS_SHOWN:
            more = len(summary.registers) - REGISTERS_SHOWN
            echo(f"           and of {more} more registers (--json lists them)")
    if summary.period_from and summary.period_to:
        echo(f"from {_utc(summary.period_from)} to {_utc(summary.period_to)} UTC")
    if summary.preview is not None:
        _show_preview(summary.preview)
    if summary.without_circuit:
        echo(
            f"note: for {summary.without_circuit:,} half-hours no circuit has the register, so no"
            " circuit shows them; add the time to circuit_register (circuit, register, start_time,"
            " end_time), as by POST /rest/v1/circuit_register"
        )


def _show_refused(summary: ImportSummary) -> None:
    echo(f"nothing was written: {summary.refused_rows} of {summary.read} rows refused")
    for row in summary.refused[:REFUSALS_SHOWN]:
        echo(f"  line {row.line}: {row.reason}")
    if summary.refused_rows > REFUSALS_SHOWN:
        more = summary.refused_rows - REFUSALS_SHOWN
        echo(f"  and {more} more (--json lists them)")


def _show_preview(preview: Preview) -> None:
    echo(
        f"would add {preview.added:,} half-hours, change {preview.changed:,}"
        f" and leave {preview.unchanged:,}"
    )
    for register, edges in groupby(preview.edges, key=lambda row: row.register_id):
        echo(f"\n{register}: first and last rows, UTC and {preview.timezone}")
        for row in edges:
            energies = _energies(row.import_kwh, row.export_kwh)
            echo(f"  {_utc(row.timestamp)}  {row.local:%Y-%m-%d %H:%M}  {energies}")
        days = [day for day in preview.days if day.register_id == register]
        echo(f"months, with a bar for each day of {preview.timezone}")
        for month, of_month in groupby(days, key=lambda day: f"{day.day:%Y-%m}"):
            echo(f"  {month}  {_month(list(of_month))}")
        echo(f"  in all   {_energies(*_sums(days))}")
        if len(days) <= DAYS_SHOWN:
            echo("days, with their half-hours")
            for day in days:
                echo(f"  {day.day}  {day.half_hours:>3}  {_energies(*_sums([day]))}")
    if preview.gap_count:
        echo(f"\n{preview.gap_count} gaps, UTC")
        for gap in preview.gaps:
            echo(f"  {_utc(gap.begins)} to {_utc(gap.ends)}  of {gap.register_id}")
        if preview.gap_count > len(preview.gaps):
            echo(f"  and {preview.gap_count - len(preview.gaps)} more")


def _month(days: list[DaySum]) -> str:
    """Return a month's sums and bars of its days, the taller of import and export."""
    by_day = {day.day.day: float(max(day.import_kwh or 0, day.export_kwh or 0)) for day in days}
    shown = bars([by_day.get(number, 0.0) for number in range(1, 32)])
    return f"{_energies(*_sums(days)):<42}  {shown}"


def _sums(days: list[DaySum]) -> tuple[Decimal | None, Decimal | None]:
    """Return the sums of import and export; None for a direction that no day has."""
    columns = ([day.import_kwh for day in days], [day.export_kwh for day in days])
    imported, exported = ([kwh for kwh in column if kwh is not None] for column in columns)
    return (
        sum(imported, Decimal()) if imported else None,
        sum(exported, Decimal()) if exported else None,
    )


def _energies(imported: object, exported: object) -> str:
    parts = []
    if imported is not None:
        parts.append(f"import {imported:,.3f} kWh")
    if exported is not None:
        parts.append(f"export {exported:,.3f} kWh")
    return ", ".join(parts) or "readings"


def _utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"
