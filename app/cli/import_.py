"""The `flows import` command."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal
from uuid import UUID

import psycopg
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from app.cli.admin import admin_url
from app.cli.import_output import show_summary
from app.cli.output import escaped, fail, print_json
from app.db.maintain import follow
from app.ingest.faults import FormatError
from app.ingest.options import Direction, ImportOptions, Interval, Layout, Unit, read_options
from app.ingest.pipeline import import_data
from app.ingest.registers import UnknownRegister
from app.settings import Settings


def _option(field: str, *names: str) -> Any:
    """Return a command-line option with the description of a field of ImportOptions."""
    return typer.Option(*names, help=ImportOptions.model_fields[field].description)


def import_file(
    file: Annotated[
        Path,
        typer.Argument(
            help="A text of separated columns with a header, or a workbook (xlsx, xls), also in"
            " gzip or zip; - reads standard input."
        ),
    ],
    profile: Annotated[str | None, _option("profile")] = None,
    layout: Annotated[Layout | None, _option("layout")] = None,
    register: Annotated[UUID | None, _option("register_id")] = None,
    register_column: Annotated[str | None, _option("register_column")] = None,
    serial_column: Annotated[str | None, _option("serial_column")] = None,
    map_: Annotated[list[str] | None, _option("map", "--map")] = None,
    where: Annotated[list[str] | None, _option("where")] = None,
    import_column: Annotated[str | None, _option("import_column")] = None,
    export_column: Annotated[str | None, _option("export_column")] = None,
    direction: Annotated[Direction | None, _option("direction")] = None,
    sign: Annotated[Direction | None, _option("sign")] = None,
    quantity_column: Annotated[str | None, _option("quantity_column")] = None,
    value_column: Annotated[str | None, _option("value_column")] = None,
    quantity: Annotated[list[str] | None, _option("quantity")] = None,
    quality_column: Annotated[str | None, _option("quality_column")] = None,
    estimated: Annotated[list[str] | None, _option("estimated")] = None,
    time_column: Annotated[str | None, _option("time_column")] = None,
    date_column: Annotated[str | None, _option("date_column")] = None,
    number_column: Annotated[str | None, _option("number_column")] = None,
    time_format: Annotated[str | None, _option("time_format")] = None,
    timezone: Annotated[str | None, _option("timezone")] = None,
    label: Annotated[Literal["start", "end"] | None, _option("label")] = None,
    clock_change: Annotated[Literal["pairs"] | None, _option("clock_change")] = None,
    interval: Annotated[Interval | None, _option("interval")] = None,
    spread: Annotated[Literal["even"] | None, _option("spread")] = None,
    reads: Annotated[bool | None, _option("reads", "--reads")] = None,
    unit: Annotated[Unit | None, _option("unit")] = None,
    delimiter: Annotated[str | None, _option("delimiter")] = None,
    decimal: Annotated[Literal[".", ","] | None, _option("decimal")] = None,
    thousands: Annotated[Literal[",", ".", " ", "'"] | None, _option("thousands")] = None,
    null: Annotated[list[str] | None, _option("null")] = None,
    encoding: Annotated[str | None, _option("encoding")] = None,
    sheet: Annotated[str | None, _option("sheet")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be written, and write nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Import energy from a file into registers: all rows, or none.

    Importing a file again changes nothing. If rows are refused, they are listed with their lines
    and nothing is written (exit code 1). When clocks go back, the order of the rows, forward or
    back in time, tells which of two equal wall-clock times is before the change; one that is in the
    file once is taken as before it. When they go forward, a row at a time that does not exist is
    skipped if it is zero, and refused otherwise.
    """
    given = {
        "profile": profile,
        "layout": layout,
        "register_id": register,
        "register_column": register_column,
        "serial_column": serial_column,
        "map": map_,
        "where": where,
        "import_column": import_column,
        "export_column": export_column,
        "direction": direction,
        "sign": sign,
        "quantity_column": quantity_column,
        "value_column": value_column,
        "quantity": quantity,
        "quality_column": quality_column,
        "estimated": estimated,
        "time_column": time_column,
        "date_column": date_column,
        "number_column": number_column,
        "time_format": time_format,
        "timezone": timezone,
        "label": label,
        "clock_change": clock_change,
        "interval": interval,
        "spread": spread,
        "reads": reads,
        "unit": unit,
        "delimiter": delimiter,
        "decimal": decimal,
        "thousands": thousands,
        "null": null,
        "encoding": encoding,
        "sheet": sheet,
    }
    try:
        options = read_options(
            **{name: value for name, value in given.items() if value is not None}
        )
        url = admin_url(Settings())
        with _data(file) as data, psycopg.connect(url) as connection:
            summary = import_data(connection, data, options, dry_run=dry_run)
        if summary.written:
            follow(url)
    except (FormatError, UnknownRegister) as error:
        raise fail(str(error)) from None
    except UnicodeDecodeError as error:
        raise fail(f"{file} is not {error.encoding} text; name its --encoding") from None
    except OSError as error:
        raise fail(f"cannot read {file}: {error.strerror}") from None
    except psycopg.Error as error:
        raise fail(f"nothing was written: {str(error).strip()}") from None
    if as_json:
        print_json(asdict(summary))
    else:
        show_summary(summary)
    if summary.refused:
        raise typer.Exit(1)


@contextmanager
def _data(file: Path) -> Iterator[BinaryIO]:
    """Yield the bytes of a file; show progress if standard error is a terminal."""
    if str(file) == "-":
        with open(0, "rb", closefd=False) as data:
            yield data
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
    console = Console(stderr=True)
    shown = Progress(
        *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal
    )
    with (
        shown as progress,
        progress.open(file, "rb", description=f"reading {escaped(file.name)}") as data,
    ):
        yield data
