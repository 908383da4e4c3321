"""`flows meter …`: meters that change hands."""

from datetime import datetime
from typing import Annotated, Any

import typer

from app.auth.clients import COMMAND_LINE, record
from app.cli.admin import admin_url, run_as_admin
from app.cli.moments import parse_moment
from app.cli.output import Json, show
from app.db.maintain import follow
from app.db.meters import move_meter
from app.db.session import Connection
from app.settings import Settings

meter = typer.Typer(help="Meters that change hands.", no_args_is_help=True)

MOVE_COLUMNS = ("serial", "from", "to", "at", "left_behind", "registers")


@meter.callback()
def meter_commands() -> None:
    """Meters that change hands."""


@meter.command("move")
def meter_move(
    serial: str,
    to: Annotated[str, typer.Option(help="Code of the ESCO that the meter moves to.")],
    at: Annotated[
        str | None,
        typer.Option(help="Moment of the move in ISO 8601 with an offset; by default now."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Move the meter SERIAL to another ESCO.

    Its history stays with the ESCO it was with, under a former meter that keeps its registers,
    half-hours and service head; their mappings end at that moment. The meter itself, with its
    serial number and SIM, begins anew: without a site, with new registers that have no half-hours
    and no circuit.
    """
    moment = None if at is None else parse_moment("--at", at)
    done = run_as_admin(lambda connection: _move(connection, serial, to, moment))
    follow(admin_url(Settings()))
    show([done], MOVE_COLUMNS, as_json=as_json)


async def _move(
    connection: Connection, serial: str, code: str, moment: datetime | None
) -> dict[str, Any]:
    done = await move_meter(connection, serial, code, moment)
    detail = f"from {done['from'] or 'nobody'} to {code} at {done['at'].isoformat()}"
    await record(connection, COMMAND_LINE, "meter.move", subject=serial, detail=detail)
    return done
