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

    `ids` are those of all its rows, `home` those that a resident of its first home may see. The
    members `resident` and `former` live there, or did until before anything was measured.
    """

    id: UUID
    code: str
    ids: frozenset[str]
    home: frozenset[str]
    circuit: str
    property: str
    resident: str
    former: str


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
    of_all = {name: uuid4() for name in ("esco", "site", "feeder")}
    esco = of_all["esco"]
    _insert(admin, "flows.escos", id=esco, code=code, name=CANARY_NAME)
    _insert(admin, "flows.sites_new", id=of_all["site"], esco=esco, name=code, code=code)
    _insert(admin, "flows.feeder_registry", id=of_all["feeder"], esco=esco, name=code)
    home, neighbour = (_make_home(admin, name, of_all) for name in (code, f"{code}-next-door"))
    tophat, charger = uuid4(), uuid4()
    _insert(admin, "flows.meter_tophat_registry", id=tophat, meter=home["meter"])
    _insert(admin, "flows.ev_chargers", id=charger, esco=esco, serial="CANARY00", pin="0000")
    resident, former = _make_residents(admin, code, esco, home["property"])
    shared = {str(value) for value in (*of_all.values(), *home.values())}
    others = {str(value) for value in (*neighbour.values(), tophat, charger)}
    return Canary(
        esco, code, frozenset(shared | others), frozenset(shared), str(home["circuit"]),
        str(home["property"]), resident, former,
    )  # fmt: skip


def _insert(admin: CanaryAdmin, table: str, **row: object) -> None:
    admin.execute(
        sql.SQL("insert into {} ({}) values ({})").format(
            sql.Identifier(*table.split(".")),
            sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join(sql.Placeholder() * len(row)),
        ),
        list(row.values()),
    )


def _make_home(admin: CanaryAdmin, name: str, of_all: dict[str, UUID]) -> dict[str, UUID]:
    """Make a home with all that supplies it, and a row of each series; return the ids."""
    ids = {
        thing: uuid4() for thing in ("property", "head", "meter", "register", "circuit")
    }  # fmt: skip
    site = of_all["site"]
    _insert(admin, "flows.properties", id=ids["property"], plot=name, site=site)
    _insert(admin, "flows.service_head_registry", id=ids["head"], feeder=of_all["feeder"],
            name=name)  # fmt: skip
    _insert(admin, "flows.meter_registry", id=ids["meter"], serial=name, name=name,
            esco=of_all["esco"], site=site)  # fmt: skip
    _insert(admin, "flows.meter_registers", register_id=ids["register"], meter_id=ids["meter"],
            element="A", nature="power")  # fmt: skip
    _insert(admin, "flows.circuits", id=ids["circuit"], type="power", name=name, site=site)
    _insert(admin, "flows.service_head_meter", service_head=ids["head"], meter=ids["meter"])
    _insert(admin, "flows.properties_service_head", property=ids["property"],
            service_head=ids["head"])  # fmt: skip
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
    return ids


def _make_residents(admin: CanaryAdmin, code: str, esco: UUID, house: UUID) -> tuple[str, str]:
    """Make a resident and a former one; return their ids. They go with their ESCO."""
    issuer, members = uuid4(), (f"flm_{uuid4().hex[:16]}", f"flm_{uuid4().hex[:16]}")
    _insert(admin, "gateway.issuer", id=issuer, url=f"https://{code}.invalid", audiences=[code],
            esco=esco)  # fmt: skip
    for member, end in zip(members, (None, "now() - interval '3 hours'"), strict=True):
        _insert(admin, "gateway.member", id=member, issuer=issuer, subject=member, esco=esco,
                name=CANARY_NAME, scopes=["read"], resident=True)  # fmt: skip
        admin.execute(
            sql.SQL(
                "insert into gateway.residence (member, property, esco, start_time, end_time)"
                " values (%s, %s, %s, now() - interval '1 year', {})"
            ).format(sql.SQL(end or "null")),
            (member, house, esco),
        )
    return members


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
