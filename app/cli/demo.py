"""`flows demo …`: the tokens of a running demo."""

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from app.cli.output import echo, fail
from app.embedded.demo_clients import read_contract
from app.settings import Settings

demo = typer.Typer(help="The demo of `flows up --demo`.", no_args_is_help=True)

DEFAULT_HOME = Path(".flows")


@demo.command("token")
def demo_token(
    esco_code: Annotated[str, typer.Argument(help="Code of the ESCO, such as wlce.")],
    write: Annotated[
        bool, typer.Option("--write", help="A token that may write as well as read.")
    ] = False,
) -> None:
    """Print a token of an ESCO in the demo: `TOKEN=$(flows demo token wlce)`."""
    home = Settings().home
    escos = read_contract(home).get("escos", {})
    if not escos:
        raise fail(f"there is no demo in {home}: run `flows up --demo`, or set FLOWS_HOME")
    if esco_code not in escos:
        raise fail(f"the demo has no ESCO {esco_code}, but {', '.join(sorted(escos))}")
    echo(escos[esco_code]["write_token" if write else "read_token"])


def flows_command(home: Path) -> str:
    """Return the words that run `flows` on a stack in `home` from another terminal."""
    program = Path(sys.argv[0])
    word = "flows"
    if program.name == "flows" and shutil.which("flows") != str(program.absolute()):
        word = os.path.relpath(program)
    return word if home == DEFAULT_HOME else f"FLOWS_HOME={home} {word}"
