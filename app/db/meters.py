"""Moving of a meter from one ESCO to another; the database leaves its history behind."""

from datetime import UTC, datetime
from typing import Any

from app.db.session import Connection
from app.errors import Conflict, NotFound, Unprocessable

MOVE = """
    update flows.meter_registry as meter set esco = %(to)s where meter.id = %(id)s
    returning meter.id, meter.serial
"""


async def move_meter(
    connection: Connection, serial: str, code: str, at: datetime | None = None
) -> dict[str, Any]:
    """Move a meter to the ESCO with a code at a moment, by default now; return what there is then.

    NotFound if there is no such meter or ESCO, Conflict if the meter is there already, and
    Unprocessable for a moment in the future.
    """
    moment = at or datetime.now(UTC)
    if moment > datetime.now(UTC):
        raise Unprocessable(
            f"{moment.isoformat()} is in the future: a meter moves now or has moved"
        )
    found = await connection.execute(
        "select meter.id, meter.esco, esco.code from flows.meter_registry as meter"
        " left join flows.escos as esco on meter.esco = esco.id where meter.serial = %s"
        " for update of meter",
        (serial,),
    )
    meter = await found.fetchone()
    if meter is None:
        raise NotFound(f"There is no meter {serial}.")
    found = await connection.execute("select id from flows.escos where code = %s", (code,))
    to = await found.fetchone()
    if to is None:
        raise NotFound(f"There is no ESCO {code}.")
    if to["id"] == meter["esco"]:
        raise Conflict(f"{serial} is {code}'s already.")
    await connection.execute("select set_config('flows.moved_at', %s, true)", (moment.isoformat(),))
    await connection.execute(MOVE, {"to": to["id"], "id": meter["id"]})
    left = await connection.execute("select flows.former_serial(%s) as serial", (serial,))
    former = await left.fetchone()
    registers = await connection.execute(
        "select register_id, element from flows.meter_registers where meter_id = %s"
        " order by element",
        (meter["id"],),
    )
    return {
        "serial": serial,
        "from": meter["code"],
        "to": code,
        "at": moment,
        "left_behind": former["serial"] if former and meter["esco"] else None,
        "registers": [str(row["register_id"]) for row in await registers.fetchall()],
    }
