"""Output of the commands: tables, JSON, and one-line errors.

Names, file contents and errors of a server may hold anything: markup is never interpreted, and
control characters are shown as escapes, so that no text can move the cursor or hide another.
"""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 200  # do not cut ids to the terminal's width, or they could not be copied

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

error_console = Console(stderr=True, soft_wrap=True, highlight=False)


# Control characters, invisible ones such as changes of direction, surrogates, line separators.
UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def escaped(text: str, keep: str = "") -> str:
    """Return the text with escapes in place of characters that act on a terminal."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char
        if char in keep or unicodedata.category(char) not in UNSAFE
        else char.encode("unicode_escape").decode()
        for char in text
    )


def echo(text: str = "", *, err: bool = False) -> None:
    """Print lines of text on standard output, or on standard error."""
    typer.echo(escaped(text, keep="\n"), err=err)


def fail(message: str) -> typer.Exit:
    """Print a one-line error; return the exception that exits with code 1."""
    error_console.print("[red]error:[/red]", end=" ")
    error_console.print(escaped(message, keep="\n"), markup=False, emoji=False)
    return typer.Exit(1)


def print_json(value: Any) -> None:
    """Print a value as JSON; times in ISO 8601, decimals and ids as strings."""

    def text(item: Any) -> str:
        return item.isoformat() if isinstance(item, datetime) else str(item)

    typer.echo(json.dumps(value, indent=2, default=text))


def show(rows: Sequence[Mapping[str, Any]], columns: tuple[str, ...], *, as_json: bool) -> None:
    """Print rows as a table of these columns, or completely as JSON."""
    if as_json:
        print_json(rows)
        return
    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*(cell(row[name]) for name in columns))
    Console(width=WIDTH).print(table)


def cell(value: Any) -> Text:
    """Return a cell of a table, for a value of any type."""
    return Text(escaped(_text(value)))


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M}Z"
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "" if value is None else str(value)
