"""`flows alerts`: meters and registers that need attention."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from app.auth.clients import find_esco
from app.cli.admin import run_as_admin
from app.cli.output import Json, fail, show
from app.db.session import Connection

# The views of api show nobody's rows to an administrator.
AS_MONITORING = "select set_config('role', 'grafanareader', true)"
ALERT_COLUMNS = ("alert", "esco", "meter", "register", "since", "balance", "clock_seconds")


def show_alerts(
    esco_code: Annotated[
        str | None, typer.Option("--esco", help="Code of the only ESCO to look at.")
    ] = None,
    alert: Annotated[
        list[str] | None,
        typer.Option(
            help="low_balance, offline, clock_drift, missing_readings or stuck_register; repeat "
            "for several; by default all."
        ),
    ] = None,
    balance_below: Annotated[float, typer.Option(help="Pounds.")] = 15,
    offline_hours: Annotated[float, typer.Option(help="Hours without a signal.")] = 3,
    clock_seconds: Annotated[float, typer.Option(help="Seconds, fast or slow.")] = 60,
    silent_hours: Annotated[float, typer.Option(help="Hours without a half-hour.")] = 24,
    stuck_days: Annotated[int, typer.Option(help="Days of half-hours without energy.")] = 7,
    as_json: Json = False,
) -> None:
    """Show meters and registers that need attention, and since when, as `/v1/alerts` does.

    It shows those of every ESCO, unless `--esco` names one.
    """
    # Imported here: frames take long to import, which no other command needs.
    from app.energy.parameters import AlertsQuery
    from app.energy.reports.alerts import find_alerts

    try:
        query = AlertsQuery.model_validate(
            {
                "alert": alert or [], "balance_below": balance_below,
                "offline_hours": offline_hours, "clock_seconds": clock_seconds,
                "silent_hours": silent_hours, "stuck_days": stuck_days,
            }
        )  # fmt: skip
    except ValidationError as wrong:
        first = wrong.errors()[0]
        name = str(first["loc"][0]).replace("_", "-")
        raise fail(f"--{name}: {first['msg']}") from None

    async def read(connection: Connection) -> list[dict[str, Any]]:
        filters = []
        if esco_code is not None:
            filters = [("esco", [(await find_esco(connection, esco_code))["id"]])]
        await connection.execute(AS_MONITORING)
        return (await find_alerts(connection, query, filters)).to_dicts()

    found = run_as_admin(read)
    for row in found:
        if row["since"] is not None:
            row["since"] = datetime.fromtimestamp(row["since"] / 1_000_000, UTC)
    show(found, ALERT_COLUMNS, as_json=as_json)
