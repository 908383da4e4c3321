"""`flows usage`: calls, rows and bytes of each client."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from psycopg.rows import DictRow

from app.auth.clients import COMMAND_LINE, Actor, find_esco
from app.auth.usage import MOST_DAYS, USUAL_DAYS, choose_days, list_usage
from app.cli.admin import run_as_admin
from app.cli.output import Json, show
from app.db.session import Connection

USAGE_COLUMNS = ("client_id", "name", "esco_code", "calls", "rows", "bytes", "received")


def usage(
    esco_code: Annotated[
        str | None, typer.Option("--esco", help="Code of the only ESCO to show.")
    ] = None,
    days: Annotated[
        int, typer.Option(min=1, max=MOST_DAYS["client"], help="Days up to today, UTC.")
    ] = USUAL_DAYS,
    by_day: Annotated[
        bool, typer.Option("--by-day", help=f"Each day apart; at most {MOST_DAYS['day']} days.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show calls, rows and bytes of each client, which the gateways count.

    Calls are requests with a valid token; rows those that were returned, or changed by PATCH and
    DELETE; bytes those of responses as they were sent, received those of requests' bodies. The last
    seconds may be missing.
    """
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)

    async def read(connection: Connection) -> list[DictRow]:
        first, stop = choose_days(
            tomorrow - timedelta(days=days), tomorrow, "day" if by_day else "client"
        )
        actor = COMMAND_LINE
        if esco_code is not None:
            actor = Actor(COMMAND_LINE.name, esco=(await find_esco(connection, esco_code))["id"])
        return await list_usage(connection, actor, first=first, stop=stop, by_day=by_day)

    columns = ("day", *USAGE_COLUMNS) if by_day else USAGE_COLUMNS
    show(run_as_admin(read), columns, as_json=as_json)
