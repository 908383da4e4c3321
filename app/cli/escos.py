"""`flows esco …`: management of ESCOs, the energy communities."""

import typer

from app.auth import clients
from app.auth.clients import COMMAND_LINE
from app.cli.admin import run_as_admin
from app.cli.output import Json, show

esco = typer.Typer(help="Energy communities.", no_args_is_help=True)

ESCO_COLUMNS = ("code", "name", "id", "disabled_at")


@esco.command("list")
def esco_list(as_json: Json = False) -> None:
    """List ESCOs."""
    show(run_as_admin(clients.list_escos), ESCO_COLUMNS, as_json=as_json)


@esco.command("create")
def esco_create(code: str, name: str, as_json: Json = False) -> None:
    """Create an ESCO with a short CODE and a NAME."""
    made = run_as_admin(
        lambda connection: clients.create_esco(connection, COMMAND_LINE, code, name)
    )
    show([made], ESCO_COLUMNS, as_json=as_json)


@esco.command("disable")
def esco_disable(code: str, as_json: Json = False) -> None:
    """Disable all clients and tokens of an ESCO; they stop working within five seconds."""
    done = run_as_admin(lambda c: clients.set_esco_disabled(c, COMMAND_LINE, code, disabled=True))
    show([done], ESCO_COLUMNS, as_json=as_json)


@esco.command("enable")
def esco_enable(code: str, as_json: Json = False) -> None:
    """Enable the clients and tokens of a disabled ESCO."""
    done = run_as_admin(lambda c: clients.set_esco_disabled(c, COMMAND_LINE, code, disabled=False))
    show([done], ESCO_COLUMNS, as_json=as_json)
