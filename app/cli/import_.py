"""The `flows import` command."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO
from uuid import UUID

import psycopg
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from app.cli.admin import admin_url
from app.cli.output import fail, print_json
from app.db.maintain import follow
from app.ingest.faults import FormatError
from app.ingest.load import UnknownRegister
from app.ingest.options import NULL_WORDS, ImportOptions, Interval, Unit, read_options
from app.ingest.pipeline import import_text
from app.ingest.summary import ImportSummary
from app.settings import Settings

REFUSALS_SHOWN = 20
ENCODING = "utf-8-sig"  # spreadsheets write a byte order mark before the header


def _option(field: str, *names: str) -> Any:
    """Return a command-line option with the description of a field of ImportOptions."""
    return typer.Option(*names, help=ImportOptions.model_fields[field].description)


def import_file(
    file: Annotated[Path, typer.Argument(help="A CSV file with a header; - reads standard input.")],
    register: Annotated[UUID | None, _option("register_id")] = None,
    import_column: Annotated[str | None, _option("import_column")] = None,
    export_column: Annotated[str | None, _option("export_column")] = None,
    time_column: Annotated[str | None, _option("time_column")] = None,
    unit: Annotated[Unit | None, _option("unit")] = None,
    timezone: Annotated[str | None, _option("timezone")] = None,
    label: Annotated[Literal["start", "end"] | None, _option("label")] = None,
    time_format: Annotated[str | None, _option("time_format")] = None,
    interval: Annotated[Interval | None, _option("interval")] = None,
    spread: Annotated[Literal["even"] | None, _option("spread")] = None,
    reads: Annotated[bool | None, _option("reads", "--reads")] = None,
    delimiter: Annotated[str | None, _option("delimiter")] = None,
    decimal: Annotated[Literal[".", ","] | None, _option("decimal")] = None,
    null: Annotated[list[str] | None, _option("null")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Import energy from a file into a register: all rows, or none.

    Importing a file again changes nothing. If rows are refused, they are listed with their lines
    and nothing is written (exit code 1). When clocks go back, the order of the rows, forward or
    back in time, tells which of two equal wall-clock times is before the change; one that is in the
    file once is taken as before it. When they go forward, a row at a time that does not exist is
    skipped if it is zero, and refused otherwise.
    """
    settings = Settings()
    given = {
        "register_id": register,
        "import_column": import_column,
        "export_column": export_column,
        "time_column": time_column,
        "unit": unit,
        "timezone": timezone,
        "label": label,
        "time_format": time_format,
        "interval": interval,
        "spread": spread,
        "reads": reads,
        "delimiter": delimiter,
        "decimal": decimal,
        "null": (*NULL_WORDS, *null) if null else None,
    }
    try:
        options = read_options(
            **{name: value for name, value in given.items() if value is not None}
        )
        url = admin_url(settings)
        with _text(file) as text, psycopg.connect(url) as connection:
            summary = import_text(connection, text, options, largest_kwh=settings.largest_kwh)
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


@contextmanager
def _text(file: Path) -> Iterator[TextIO]:
    """Yield the text of a file; show progress if standard error is a terminal."""
    if str(file) == "-":
        with open(0, encoding=ENCODING, closefd=False) as text:
            yield text
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    console = Console(stderr=True)
    shown = Progress(
        *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal
    )
    with (
        shown as progress,
        progress.open(file, "rb", description=f"reading {file.name}") as data,
        TextIOWrapper(data, encoding=ENCODING) as text,
    ):
        yield text


def _print(summary: ImportSummary) -> None:
    if summary.refused:
        typer.echo(f"nothing was written: {summary.refused_rows} of {summary.read} rows refused")
        for row in summary.refused[:REFUSALS_SHOWN]:
            typer.echo(f"  line {row.line}: {row.reason}")
        if summary.refused_rows > REFUSALS_SHOWN:
            more = summary.refused_rows - REFUSALS_SHOWN
            typer.echo(f"  and {more} more (--json lists them)")
        return
    always = {
        "rows read": summary.read,
        "written": summary.written,
        "unchanged": summary.unchanged,
        "skipped (a time that does not exist, zero energy)": summary.skipped,
        "missing from the file": summary.missing,
    }
    sometimes = {
        "of which the file has only a part, not written": summary.incomplete,
        "rows with a word for an unknown value": summary.unknown,
        "once in an hour that clocks repeat, taken as before the change": summary.once,
        "marked as estimates": summary.estimated,
        "estimates that did not replace a measurement": summary.kept,
    }
    for text, count in (always | {text: n for text, n in sometimes.items() if n}).items():
        typer.echo(f"{count:>9,}  {text}")
    if summary.interval:
        typer.echo(f"interval: {summary.interval}")
    if summary.period_from and summary.period_to:
        typer.echo(
            f"from {summary.period_from:%Y-%m-%d %H:%M} to {summary.period_to:%Y-%m-%d %H:%M} UTC"
        )
    if summary.without_circuit:
        typer.echo(
            f"note: for {summary.without_circuit:,} half-hours no circuit has the register, so no"
            " circuit shows them; add the time to circuit_register (circuit, register, start_time,"
            " end_time), as by POST /rest/v1/circuit_register"
        )
