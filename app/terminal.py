"""What the commands share: where the administrator's database is, errors and JSON on a terminal."""

import json
from datetime import datetime
from typing import Any

import typer
from rich.console import Console

from app.settings import Settings

problems = Console(stderr=True, soft_wrap=True, highlight=False)


def fail(message: str) -> typer.Exit:
    """Print one line for a person and return the exit."""
    problems.print("[red]error:[/red]", end=" ")
    problems.print(message, markup=False)
    return typer.Exit(1)


def print_json(value: Any) -> None:
    """Print a value as JSON; times in ISO 8601, decimals and ids as strings."""

    def text(item: Any) -> str:
        return item.isoformat() if isinstance(item, datetime) else str(item)

    typer.echo(json.dumps(value, indent=2, default=text))


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
    demo = settings.home / "demo.json"
    if demo.exists():
        url: str = json.loads(demo.read_text())["database_url"]
        return url
    raise fail("set FLOWS_DATABASE_ADMIN_URL to an administrator's login, or run `flows up --demo`")
