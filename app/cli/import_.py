"""The `flows import` command."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID
from zoneinfo import ZoneInfo

import psycopg
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from app.cli.admin import admin_url
from app.cli.output import fail, print_json
from app.db.maintain import follow
from app.ingest.load import Summary, UnknownRegister, load
from app.ingest.rows import CsvFormat, FormatError, read_rows
from app.settings import Settings

REFUSALS_SHOWN = 20
ENCODING = "utf-8-sig"  # spreadsheets write a byte order mark before the header


class Unit(StrEnum):
    """Units of energy in a file."""

    wh = "Wh"
    kwh = "kWh"
    mwh = "MWh"


class Point(StrEnum):
    """Decimal separators of a file."""

    point = "."
    comma = ","


class Label(StrEnum):
    """Meaning of a file's times: start or end of the half-hour."""

    start = "start"
    end = "end"


def import_file(
    file: Annotated[Path, typer.Argument(help="A CSV file with a header; - reads standard input.")],
    register: Annotated[UUID, typer.Option(help="Id of the register the energy belongs to.")],
    import_column: Annotated[
        str | None, typer.Option(help="Column of imported energy (consumption).")
    ] = None,
    export_column: Annotated[
        str | None, typer.Option(help="Column of exported energy (generation).")
    ] = None,
    time_column: Annotated[
        str | None, typer.Option(help="Column of the time; by default the first.")
    ] = None,
    unit: Annotated[Unit, typer.Option(help="Unit of the energy.")] = Unit.kwh,
    timezone: Annotated[
        str | None, typer.Option(help="Time zone of times without an offset, as Europe/London.")
    ] = None,
    label: Annotated[
        Label, typer.Option(help="Times are the start or the end of half-hours.")
    ] = Label.start,
    time_format: Annotated[
        str | None, typer.Option(help="Format of times, as %d/%m/%Y %H:%M; by default ISO 8601.")
    ] = None,
    delimiter: Annotated[
        str, typer.Option(help="Separator of columns: a character, or \\t for a tab.")
    ] = ",",
    decimal: Annotated[Point, typer.Option(help="Decimal separator.")] = Point.point,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Import half-hourly energy from a CSV file into a register: all rows, or none.

    Importing a file again changes nothing. If rows are refused, they are listed with their lines
    and nothing is written (exit code 1). When clocks go back, a wall-clock time that is in the file
    twice is first before and then after the change. When they go forward, a row at a time that does
    not exist is skipped if it is zero, and refused otherwise.
    """
    form = CsvFormat(
        time_column=time_column,
        import_column=import_column,
        export_column=export_column,
        unit=unit.value,
        timezone=_zone(timezone),
        label=label.value,
        time_format=time_format,
        delimiter=_separator(delimiter),
        decimal=decimal.value,
    )
    url = admin_url(Settings())
    try:
        with _lines(file) as lines, psycopg.connect(url) as connection:
            summary = load(connection, register, read_rows(lines, form))
        if summary.written:
            follow(url)
    except (FormatError, UnknownRegister) as error:
        raise fail(str(error)) from None
    except UnicodeDecodeError:
        raise fail(f"{file} is not UTF-8 text") from None
    except OSError as error:
        raise fail(f"cannot read {file}: {error.strerror}") from None
    except psycopg.Error as error:
        raise fail(f"nothing was written: {str(error).strip()}") from None
    if as_json:
        print_json(asdict(summary))
    else:
        _print(summary)
    if summary.refused:
        raise typer.Exit(1)


def _zone(name: str | None) -> ZoneInfo | None:
    try:
        return ZoneInfo(name) if name else None
    except (KeyError, ValueError, OSError):
        raise fail(f"{name!r} is not an IANA time zone like Europe/London") from None


def _separator(text: str) -> str:
    text = "\t" if text == "\\t" else text
    if len(text) != 1 or text in '"\r\n':
        raise fail(f"--delimiter: {text!r} is not a single character")
    return text


@contextmanager
def _lines(file: Path) -> Iterator[Iterator[str]]:
    """Yield the lines of a file; show progress if standard error is a terminal."""
    if str(file) == "-":
        with open(0, encoding=ENCODING, newline="", closefd=False) as text:
            yield text
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    console = Console(stderr=True)
    with (
        file.open(encoding=ENCODING, newline="") as text,
        Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal)
        as progress,
    ):  # fmt: skip
        task = progress.add_task(f"reading {file.name}", total=file.stat().st_size)

        def counted() -> Iterator[str]:
            for line in text:
                progress.advance(task, len(line.encode()))
                yield line
            progress.update(task, description="writing")

        yield counted()


def _print(summary: Summary) -> None:
    if summary.refused:
        typer.echo(f"nothing was written: {len(summary.refused)} of {summary.read} rows refused")
        for row in summary.refused[:REFUSALS_SHOWN]:
            typer.echo(f"  line {row.line}: {row.reason}")
        if len(summary.refused) > REFUSALS_SHOWN:
            more = len(summary.refused) - REFUSALS_SHOWN
            typer.echo(f"  and {more} more (--json lists all)")
        return
    counts: dict[str, Any] = {
        "rows read": summary.read,
        "written": summary.written,
        "unchanged": summary.unchanged,
        "skipped (a time that does not exist, zero energy)": summary.skipped,
        "missing from the file": summary.missing,
    }
    for what, count in counts.items():
        typer.echo(f"{count:>9,}  {what}")
    if summary.period_from and summary.period_to:
        typer.echo(
            f"from {summary.period_from:%Y-%m-%d %H:%M} to {summary.period_to:%Y-%m-%d %H:%M} UTC"
        )
