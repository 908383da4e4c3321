"""`flows --version`."""

from typing import Annotated

import typer

from app import __version__
from app.cli.output import echo


def _print_version(wanted: bool) -> None:
    if wanted:
        echo(f"flows {__version__}")
        raise typer.Exit


def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Run and administer the Flows gateway."""
