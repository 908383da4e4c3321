"""`flows --version`."""

from typing import Annotated

import typer

from app import __version__


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"flows {__version__}")
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
