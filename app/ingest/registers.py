"""Registers by the keys of a file: an id, or the number of a meter or of a supply point."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import psycopg

from app.ingest.faults import FormatError
from app.ingest.options import ImportOptions

KEYS_NAMED = 10

KNOWN = "select register_id from flows.meter_registers where register_id = any(%s)"
# One that still counts goes before replaced ones.
BY_NUMBER = """
    select key, array_agg(r.register_id order by r.register_id)
        filter (where r.status = 'enabled'), array_agg(r.register_id order by r.register_id)
    from unnest(%s::text[]) as key
    cross join lateral (
        select own.register_id, own.status
        from flows.meter_registry as m
        join flows.meter_registers as own on own.meter_id = m.id
        where m.serial = key
        union
        select own.register_id, own.status from flows.meter_registers as own where own.mpan = key
    ) as r
    group by key
"""


class UnknownRegister(Exception):  # noqa: N818  (its message is shown to the user)
    """There is no register with this id, or for this key of the file."""


def check_register(connection: psycopg.Connection[Any], options: ImportOptions) -> None:
    """Refuse options that name no register, or one that does not exist, before the file is read."""
    by_column = options.register_column or options.serial_column
    if options.register_id is None and by_column is None:
        raise FormatError(
            "name the register with --register, or a column with --register-column or"
            " --serial-column"
        )
    if options.register_id is not None and by_column is not None:
        raise FormatError("--register and a column of registers exclude each other")
    if options.register_id is not None:
        _check_known(connection, [options.register_id])


def find_registers(
    connection: psycopg.Connection[Any], keys: Sequence[str | None], options: ImportOptions
) -> dict[str | None, UUID]:
    """Return the register of each key of a file; UnknownRegister if a key has none, or several."""
    if options.register_id is not None:
        return dict.fromkeys(keys, options.register_id)
    found: dict[str | None, UUID] = {key: options.map[key] for key in keys if key in options.map}
    left = [key for key in keys if key is not None and key not in found]
    if options.register_column is not None:
        found.update((key, _uuid(key)) for key in left)
    else:
        found.update(_by_number(connection, left))
    _check_known(connection, list(found.values()))
    return found


def _by_number(connection: psycopg.Connection[Any], keys: list[str]) -> dict[str, UUID]:
    found: dict[str, UUID] = {}
    several: dict[str, int] = {}
    for key, enabled, every in connection.execute(BY_NUMBER, (keys,)):
        registers = enabled or every
        if len(registers) == 1:
            found[key] = registers[0]
        else:
            several[key] = len(registers)
    for key, count in several.items():
        raise UnknownRegister(
            f"{key!r} has {count} registers: choose one with --map {key}=REGISTER"
        )
    unknown = [key for key in keys if key not in found]
    if unknown:
        named = ", ".join(repr(key) for key in unknown[:KEYS_NAMED])
        more = f" and {len(unknown) - KEYS_NAMED} more" if len(unknown) > KEYS_NAMED else ""
        raise UnknownRegister(
            f"there is no meter with the serial, and no register with the MPAN {named}{more}:"
            f" --map {unknown[0]}=REGISTER names a register"
        )
    return found


def _check_known(connection: psycopg.Connection[Any], registers: list[UUID]) -> None:
    known = {register for (register,) in connection.execute(KNOWN, (registers,))}
    for register in registers:
        if register not in known:
            raise UnknownRegister(f"there is no register {register}")


def _uuid(key: str) -> UUID:
    try:
        return UUID(key)
    except ValueError:
        raise UnknownRegister(f"{key!r} is not the id of a register; --map can name one") from None
