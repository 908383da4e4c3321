"""Two ESCOs of a few rows each, made for a proof of isolation and removed after it.

Nothing else in the deployment is written. What a killed run leaves behind the next one removes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

CanaryAdmin = psycopg.Connection[dict[str, Any]]

CANARY_PREFIX = "flows-prove-"
CANARY_NAME = "canary of flows prove"
LEFT_BEHIND = "select id from flows.escos where code like %s and name = %s"
# Tables and series say in each row whose it is; aggregates follow the series.
WITH_OWNER = """
    select c.relname from pg_class as c
    join pg_attribute as a on a.attrelid = c.oid and a.attname = 'esco' and not a.attisdropped
    where c.relnamespace = 'flows'::regnamespace and c.relkind in ('r', 'p')
        and not c.relispartition and c.relname <> 'change' and c.relname !~ '^circuit_sums'
    order by (select min(s.name) from flows.series() as s where s.name = c.relname) nulls last,
        c.oid desc
"""
# A value of each series, beside its key and time.
SERIES_VALUES: dict[str, dict[str, Any]] = {
    "register_import": {"read": 1},
    "register_export": {"read": 1},
    "register_interval_hh": {"import_kwh": 0.1, "export_kwh": 0},
    "meter_voltage": {"voltage": 240},
    "meter_3p_voltage": {"voltage_l1": 240, "voltage_l2": 240, "voltage_l3": 240},
    "meter_csq": {"csq": 20},
    "meter_health_history": {"health": "healthy"},
    "meter_prepay_balance": {"balance": 10, "emergency_credit": 5},
    "meter_event_log": {"event_type": 1, "event_set": 1},
}
SERIES_TIME = "date_bin('30 minutes', now() - interval '2 hours', '2000-01-01Z')"


@dataclass(frozen=True)
class Canary:
    """An ESCO of the proof; `code` is also the name of its site, feeder and meter.

    `ids` are those of all its rows.
    """

    id: UUID
    code: str
    ids: frozenset[str]
    circuit: str
    property: str


@contextmanager
def canaries(admin: CanaryAdmin) -> Iterator[tuple[Canary, Canary]]:
    """Make two canaries on a connection in autocommit, and remove them in the end."""
    remove_canaries(admin)
    run = uuid4().hex[:8]
    try:
        with admin.transaction():
            made = _make(admin, f"{CANARY_PREFIX}{run}-a"), _make(admin, f"{CANARY_PREFIX}{run}-b")
        yield made
    finally:
        remove_canaries(admin)


def remove_canaries(admin: CanaryAdmin) -> None:
    """Remove all canaries, with all their rows."""
    with admin.transaction():
        found = admin.execute(LEFT_BEHIND, (CANARY_PREFIX + "%", CANARY_NAME)).fetchall()
        escos = [row["id"] for row in found]
        if not escos:
            return
        left = [row["relname"] for row in admin.execute(WITH_OWNER).fetchall()]
        while left:
            kept = [table for table in left if not _emptied(admin, table, escos)]
            if len(kept) == len(left):
                raise psycopg.errors.ForeignKeyViolation(
                    f"rows of canaries are still used in {', '.join(kept)}"
                )
            left = kept
        admin.execute("delete from flows.escos where id = any(%s)", (escos,))


def _emptied(admin: CanaryAdmin, table: str, escos: list[UUID]) -> bool:
    """Delete the canaries' rows of a table; return False if others refer to them."""
    statement = sql.SQL("delete from {} where esco = any(%s)").format(
        sql.Identifier("flows", table)
    )
    try:
        with admin.transaction():
            admin.execute(statement, (escos,))
    except psycopg.errors.ForeignKeyViolation:
        return False
    return True


def _make(admin: CanaryAdmin, code: str) -> Canary:
    ids = {name: uuid4() for name in (
        "esco", "site", "property", "feeder", "head", "meter", "register", "circuit", "tophat",
        "charger",
    )}  # fmt: skip

    def insert(table: str, **row: object) -> None:
        admin.execute(
            sql.SQL("insert into flows.{} ({}) values ({})").format(
                sql.Identifier(table),
                sql.SQL(", ").join(map(sql.Identifier, row)),
                sql.SQL(", ").join(sql.Placeholder() * len(row)),
            ),
            list(row.values()),
        )

    insert("escos", id=ids["esco"], code=code, name=CANARY_NAME)
    insert("sites_new", id=ids["site"], esco=ids["esco"], name=code, code=code)
    insert("properties", id=ids["property"], plot=code, site=ids["site"])
    insert("feeder_registry", id=ids["feeder"], esco=ids["esco"], name=code)
    insert("service_head_registry", id=ids["head"], feeder=ids["feeder"], name=code)
    insert("meter_registry", id=ids["meter"], serial=code, name=code, esco=ids["esco"],
           site=ids["site"])  # fmt: skip
    insert("meter_registers", register_id=ids["register"], meter_id=ids["meter"], element="A",
           nature="power")  # fmt: skip
    insert("circuits", id=ids["circuit"], type="power", name=code, site=ids["site"])
    insert("service_head_meter", service_head=ids["head"], meter=ids["meter"])
    insert("properties_service_head", property=ids["property"], service_head=ids["head"])
    insert("meter_tophat_registry", id=ids["tophat"], meter=ids["meter"])
    insert("ev_chargers", id=ids["charger"], esco=ids["esco"], serial="CANARY00", pin="0000")
    admin.execute(
        "insert into flows.circuit_register (circuit, register, start_time)"
        " values (%s, %s, now() - interval '1 day')",
        (ids["circuit"], ids["register"]),
    )
    for series in admin.execute("select name, key from flows.series()").fetchall():
        if series["key"] == "circuit_id":
            continue
        values = SERIES_VALUES[series["name"]]
        admin.execute(
            sql.SQL('insert into flows.{} ({}, "timestamp", {}) values (%s, {}, {})').format(
                sql.Identifier(series["name"]),
                sql.Identifier(series["key"]),
                sql.SQL(", ").join(map(sql.Identifier, values)),
                sql.SQL(SERIES_TIME),
                sql.SQL(", ").join(sql.Placeholder() * len(values)),
            ),
            [ids["meter" if series["key"] == "meter_id" else "register"], *values.values()],
        )
    named = frozenset(map(str, ids.values()))
    return Canary(ids["esco"], code, named, str(ids["circuit"]), str(ids["property"]))


def rows_of(admin: CanaryAdmin, table: str, canary: Canary) -> list[dict[str, Any]]:
    """Return a canary's rows of a table or series as JSON, in a stable order."""
    whose = sql.Identifier("id" if table == "escos" else "esco")
    found = admin.execute(
        sql.SQL(
            "select to_jsonb(t) as row from flows.{} as t where {} = %s order by t::text"
        ).format(sql.Identifier(table), whose),
        (canary.id,),
    ).fetchall()
    return [row["row"] for row in found]


def open_admin(url: str) -> CanaryAdmin:
    """Return an administrator's connection in autocommit."""
    return psycopg.connect(url, autocommit=True, row_factory=dict_row, connect_timeout=5)
