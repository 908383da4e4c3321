"""What the commands share: where the administrator's database is, errors and JSON on a terminal."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from app.embedded.postgres import EmbeddedPostgres
from app.settings import Settings

WIDTH = 200  # an id that is cut to a terminal's width cannot be pasted

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

error_console = Console(stderr=True, soft_wrap=True, highlight=False)


def fail(message: str) -> typer.Exit:
    """Print one line for a person and return the exit."""
    error_console.print("[red]error:[/red]", end=" ")
    error_console.print(message, markup=False)
    return typer.Exit(1)


def print_json(value: Any) -> None:
    """Print a value as JSON; times in ISO 8601, decimals and ids as strings."""

    def text(item: Any) -> str:
        return item.isoformat() if isinstance(item, datetime) else str(item)

    typer.echo(json.dumps(value, indent=2, default=text))


def show(rows: Sequence[Mapping[str, Any]], columns: tuple[str, ...], *, as_json: bool) -> None:
    """Print rows as a table, or all of them as JSON."""
    if as_json:
        print_json(rows)
        return
    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*(_text(row[name]) for name in columns))
    Console(width=WIDTH).print(table)


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M}Z"
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "" if value is None else str(value)


def issuer(settings: Settings) -> str:
    """The gateway's address as tokens name it: of the environment, else of the stack here."""
    demo = settings.home / "demo.json"
    if settings.public_url is None and demo.exists():
        url: str = json.loads(demo.read_text())["base_url"]
        return url
    return settings.base_url


def admin_url(settings: Settings) -> str:
    """The administrator's URL: from the environment, else of the embedded stack in FLOWS_HOME."""
    if settings.database.admin_url:
        return settings.database.admin_url.get_secret_value()
    embedded = EmbeddedPostgres(settings.home.absolute())
    if embedded.password_file.exists():
        return embedded.admin_url
    raise fail("set FLOWS_DATABASE_ADMIN_URL to an administrator's login, or run `flows up`")
