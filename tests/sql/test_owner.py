"""The owner in every row: set by the database, and what it makes impossible."""

from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from app.db.isolation import become, exposed
from tests.conftest import Stack
from tests.sql.series import TIME_SERIES
from tests.sql.test_isolation import rows_of

Admin = psycopg.Connection[Any]
NOBODY = "00000000-0000-0000-0000-000000000000"


def value(admin: Admin, query: str, *parameters: object) -> Any:
    """The first value of a query's first row."""
    row = admin.execute(query.encode(), parameters).fetchone()
    assert row is not None
    return row[0]


@pytest.fixture
def escos(stack: Stack) -> tuple[str, str]:
    """The writer's ESCO and another."""
    found = stack.contract["escos"]
    return found["wlce"]["id"], found["hmce"]["id"]


def barriers(admin: Admin) -> list[str]:
    """The views of api that read as their owner."""
    rows = admin.execute(
        "select relname from pg_class where relnamespace = 'api'::regnamespace"
        " and 'security_barrier=true' = any(reloptions) order by 1"
    )
    return [row[0] for row in rows]


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
def test_a_plan_is_never_used_by_another_role(
    admin: Admin, escos: tuple[str, str], mode: str
) -> None:
    """A plan that shows operators every row is made again for a tenant."""
    callers = [("grafanareader", None), ("flows", escos[0]), ("public_backend", escos[1]),
               ("flows", None), ("tsdbadmin", None), ("flows", escos[1])]  # fmt: skip
    expected: dict[tuple[str, str, str | None], int] = {}
    relations = exposed(admin)
    for relation in relations:
        for role, esco in callers:
            become(admin, role, esco)
            expected[relation, role, esco] = value(admin, f"select count(*) from api.{relation}")
    admin.execute("select set_config('plan_cache_mode', %s, true)", (mode,))
    become(admin, "grafanareader", None)
    for relation in relations:
        counted = f"select count(*) from api.{relation}"
        admin.execute(f"prepare p_{relation} as {counted}".encode())
        admin.execute(f"prepare q_{relation}(int) as {counted} where $1 = 1".encode())
    for role, esco in [*callers, *reversed(callers)]:
        become(admin, role, esco)
        for relation in relations:
            for _ in range(2):
                assert value(admin, f"execute p_{relation}") == expected[relation, role, esco]
                assert value(admin, f"execute q_{relation}(1)") == expected[relation, role, esco]
    assert any(expected[name, "flows", escos[0]] for name in barriers(admin))
    assert all(
        expected[name, "flows", escos[0]] < expected[name, "grafanareader", None]
        for name in TIME_SERIES
    )


def test_a_function_of_plpgsql_keeps_no_plan_of_another_role(
    admin: Admin, escos: tuple[str, str]
) -> None:
    admin.execute(
        "create function api.counted() returns bigint language plpgsql as"
        " $$ begin return (select count(*) from api.meter_csq); end $$;"
        " grant execute on function api.counted() to flows, grafanareader"
    )
    found = []
    for role, esco in (("grafanareader", None), ("flows", escos[0]), ("grafanareader", None)):
        become(admin, role, esco)
        found += [value(admin, "select api.counted()") for _ in range(7)]
    assert len(set(found[:7])) == len(set(found[7:14])) == 1
    assert 0 < found[7] < found[0] == found[20]


def test_no_view_shows_the_owner_that_did_not_before(admin: Admin) -> None:
    rows = admin.execute(
        "select c.relname from pg_attribute as a join pg_class as c on a.attrelid = c.oid"
        " where c.relnamespace = 'api'::regnamespace and a.attname = 'esco' order by 1"
    )
    assert [row[0] for row in rows] == [
        "ev_chargers", "feeder_registry", "meter_registry", "sites_new",
    ]  # fmt: skip


OWNED = {
    "meter_registers": ("meter_id", "meter_registry", "id"),
    "meter_shadows": ("id", "meter_registry", "id"),
    "meter_tophat_registry": ("meter", "meter_registry", "id"),
    "service_head_meter": ("meter", "meter_registry", "id"),
    "circuit_register": ("register", "meter_registers", "register_id"),
    "properties_service_head": ("service_head", "service_head_registry", "id"),
    "register_extent": ("register_id", "meter_registers", "register_id"),
    "properties": ("site", "sites_new", "id"),
    "circuits": ("site", "sites_new", "id"),
    "service_head_registry": ("feeder", "feeder_registry", "id"),
    **{
        name: (
            ("register_id", "meter_registers", "register_id")
            if name.startswith("register")
            else ("meter_id", "meter_registry", "id")
        )
        for name in sorted(TIME_SERIES)
    },
}


@pytest.mark.parametrize("table", OWNED)
def test_what_the_demo_loaded_has_the_owner_of_its_parent(admin: Admin, table: str) -> None:
    column, parent, key = OWNED[table]
    rows = value(admin, f"select count(*) from flows.{table} where esco is not null")
    wrong = value(
        admin,
        f"select count(*) from flows.{table} as t join flows.{parent} as p on t.{column} = p.{key}"
        " where t.esco is distinct from p.esco",
    )
    assert rows > 0
    assert wrong == 0


def test_every_aggregate_has_the_owner_of_its_circuit(admin: Admin) -> None:
    for aggregate in ("hh", "daily", "daily_london", "monthly"):
        name = f"flows.circuit_interval_{aggregate}"
        joined = f"from {name} as a join flows.circuits as c on a.circuit_id = c.id"
        wrong = value(admin, f"select count(*) {joined} where a.esco is distinct from c.esco")
        assert wrong == 0
        assert value(admin, f"select count(*) {joined} where a.esco is not null") > 0


HALF_HOURS = {
    "insert": (
        "insert into api.register_interval_hh (register_id, \"timestamp\", import_kwh)"
        " values (%s, %s, 1)"
    ),
    "merge": (
        "insert into api.register_interval_hh (register_id, \"timestamp\", import_kwh)"
        " values (%s, %s, 1) on conflict (register_id, \"timestamp\")"
        " do update set import_kwh = excluded.import_kwh"
    ),
    "ignore": (
        "insert into api.register_interval_hh (register_id, \"timestamp\", import_kwh)"
        " values (%s, %s, 1) on conflict (register_id, \"timestamp\") do nothing"
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", HALF_HOURS)
def test_a_foreign_half_hour_is_refused_as_one_of_no_register(
    admin: Admin, escos: tuple[str, str], how: str
) -> None:
    """The refusal does not tell a row or a register that exists from one that does not."""
    become(admin, "flows", escos[1])
    register, there = admin.execute(
        'select register_id, max("timestamp") from api.register_interval_hh group by 1 limit 1'
    ).fetchone() or (None, None)
    become(admin, "flows", escos[0])
    heard = set()
    for named, moment in (
        (register, there), (register, "2001-01-01Z"), (uuid4(), there), (uuid4(), "2001-01-01Z"),
    ):  # fmt: skip
        with pytest.raises(psycopg.Error) as refused, admin.transaction():
            admin.execute(HALF_HOURS[how].encode(), (named, moment))
        told = refused.value.diag
        heard.add((told.sqlstate, told.message_primary, told.message_detail, told.constraint_name))
    assert heard == {
        ("44000", 'new row violates check option for view "register_interval_hh"', None, None)
    }


LINKS = {
    "meter_registers": ("meter_id", "api.meter_registry", "id", {}),
    "meter_tophat_registry": ("meter", "api.meter_registry", "id", {}),
    "circuits": ("site", "api.sites_new", "id", {"type": "'power'"}),
    "properties": ("site", "api.sites_new", "id", {"plot": "'1'"}),
    "service_head_registry": ("feeder", "api.feeder_registry", "id", {"name": "'x'"}),
    "circuit_register": (
        "register", "api.meter_registers", "register_id",
        {"circuit": "(select id from api.circuits limit 1)", "start_time": "'2020-01-01Z'",
         "end_time": "'2020-01-02Z'"},
    ),
    "service_head_meter": (
        "service_head", "api.service_head_registry", "id",
        {"meter": "(select id from api.meter_registry limit 1)"},
    ),
    "properties_service_head": (
        "property", "api.properties", "id",
        {"service_head": "(select id from api.service_head_registry limit 1)"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("table", LINKS)
def test_a_foreign_parent_is_refused_as_one_that_does_not_exist(
    admin: Admin, escos: tuple[str, str], table: str
) -> None:
    column, parent, key, others = LINKS[table]
    become(admin, "flows", escos[1])
    foreign = value(admin, f"select {key} from {parent} limit 1")
    become(admin, "flows", escos[0])
    own = value(admin, f"select {key} from {parent} limit 1")
    columns, values = ", ".join([column, *others]), ", ".join(["%s", *others.values()])
    statement = f"insert into api.{table} ({columns}) values ({values})"
    heard = set()
    for named in (foreign, uuid4()):
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as refused, admin.transaction():
            admin.execute(statement.encode(), (named,))
        heard.add((refused.value.diag.message_primary, refused.value.diag.constraint_name))
    assert len(heard) == 1
    with admin.transaction(force_rollback=True):
        try:
            assert admin.execute(statement.encode(), (own,)).rowcount == 1
        except psycopg.errors.UniqueViolation:
            assert table in ("service_head_meter", "properties_service_head")


SHARING = {
    "a mapping": (
        "insert into flows.circuit_register (circuit, register, start_time)"
        " select c.id, r.register_id, '2020-01-01Z' from flows.circuits as c, flows.meter_registers"
        " as r where c.esco = %s and r.esco = %s limit 1"
    ),
    "a meter on a head": (
        "insert into flows.service_head_meter (service_head, meter)"
        " select h.id, m.id from flows.service_head_registry as h, flows.meter_registry as m"
        " where h.esco = %s and m.esco = %s limit 1"
    ),
    "a property on a head": (
        "insert into flows.properties_service_head (property, service_head)"
        " select p.id, h.id from flows.properties as p, flows.service_head_registry as h"
        " where p.esco = %s and h.esco = %s limit 1"
    ),
    "a circuit at a site": (
        "update flows.circuits set site = (select id from flows.sites_new where esco = %s limit 1)"
        " where id = (select min(circuit::text)::uuid from flows.circuit_register where esco = %s)"
    ),
}


@pytest.mark.parametrize("what", SHARING)
def test_nobody_links_two_escos(admin: Admin, escos: tuple[str, str], what: str) -> None:
    for role in ("tsdbadmin", "flows_owner"):
        become(admin, role, None)
        with pytest.raises(psycopg.errors.ForeignKeyViolation), admin.transaction():
            admin.execute(SHARING[what].encode(), escos)


def test_what_nobody_owned_takes_its_history_to_its_first_owner(
    admin: Admin, escos: tuple[str, str]
) -> None:
    """Meters, circuits and heads of an existing deployment arrive in any order, some of nobody."""
    meter, register, circuit, head, house = (uuid4() for _ in range(5))
    admin.execute("insert into flows.meter_registry (id, serial, name) values (%s, 'N1', 'x')",
                  (meter,))  # fmt: skip
    admin.execute("insert into flows.meter_registers (register_id, meter_id) values (%s, %s)",
                  (register, meter))  # fmt: skip
    admin.execute("insert into flows.circuits (id, type) values (%s, 'power')", (circuit,))
    admin.execute("insert into flows.service_head_registry (id, name) values (%s, 'N1')", (head,))
    admin.execute("insert into flows.properties (id, plot) values (%s, 'N1')", (house,))
    admin.execute("insert into flows.circuit_register (circuit, register, start_time)"
                  " values (%s, %s, '2019-01-01Z')", (circuit, register))  # fmt: skip
    admin.execute("insert into flows.service_head_meter (service_head, meter) values (%s, %s)",
                  (head, meter))  # fmt: skip
    admin.execute("insert into flows.properties_service_head values (%s, %s)", (house, head))
    admin.execute("insert into flows.register_interval_hh (register_id, \"timestamp\", import_kwh)"
                  " values (%s, '2020-01-01Z', 1)", (register,))  # fmt: skip
    admin.execute(
        "insert into flows.meter_csq (meter_id, timestamp, csq) values (%s, '2020-01-01Z', 3)",
        (meter,),
    )
    become(admin, "flows", escos[0])
    assert value(admin, "select count(*) from api.meter_csq where meter_id = %s", meter) == 0
    admin.execute("reset role")
    admin.execute("update flows.meter_registry set esco = %s where id = %s", (escos[0], meter))
    become(admin, "flows", escos[0])
    for query, key in {
        "select count(*) from api.meter_registers where register_id = %s": register,
        "select count(*) from api.meter_shadows where id = %s": meter,
        "select count(*) from api.circuits where id = %s": circuit,
        "select count(*) from api.circuit_register where circuit = %s": circuit,
        "select count(*) from api.service_head_registry where id = %s": head,
        "select count(*) from api.service_head_meter where meter = %s": meter,
        "select count(*) from api.properties where id = %s": house,
        "select count(*) from api.properties_service_head where property = %s": house,
        "select count(*) from api.register_interval_hh where register_id = %s": register,
        "select count(*) from api.register_interval_hh_latest where register_id = %s": register,
        "select count(*) from api.meter_csq where meter_id = %s": meter,
    }.items():
        assert value(admin, query, key) == 1, query


def test_59_a_meter_that_moves_by_hand_leaves_its_history(
    admin: Admin, escos: tuple[str, str]
) -> None:
    """Its registers stay with their owner, and the meter has new ones."""
    meter, register = uuid4(), uuid4()
    admin.execute("insert into flows.meter_registry (id, serial, name, esco)"
                  " values (%s, 'M1', 'x', %s)", (meter, escos[0]))  # fmt: skip
    admin.execute("insert into flows.meter_registers (register_id, meter_id, element)"
                  " values (%s, %s, 'A')", (register, meter))  # fmt: skip
    half_hour = (
        'insert into flows.register_interval_hh (register_id, "timestamp", import_kwh)'
        " values (%s, %s, 1)"
    )
    admin.execute(half_hour, (register, "2020-01-01Z"))
    admin.execute("update flows.meter_registry set esco = %s where id = %s", (escos[1], meter))
    fresh = value(admin, "select register_id from flows.meter_registers where meter_id = %s", meter)
    assert fresh != register
    admin.execute(half_hour, (fresh, "2020-01-01Z"))
    for esco, its, other in ((escos[0], register, fresh), (escos[1], fresh, register)):
        become(admin, "flows", esco)
        for relation in (
            "meter_registers", "register_interval_hh", "register_interval_hh_latest",
        ):  # fmt: skip
            count = f"select count(*) from api.{relation} where register_id = %s"
            assert value(admin, count, its) == 1
            assert value(admin, count, other) == 0
    admin.execute("reset role")
    assert value(admin, "select count(*) from flows.meter_shadows where id = %s", meter) == 1


def test_each_half_hour_of_a_statement_has_the_owner_of_its_register(
    admin: Admin, escos: tuple[str, str]
) -> None:
    """Rows of several ESCOs and of nobody, in any order, and again when an owner was found."""
    registers = []
    for number, esco in enumerate((*escos, None)):
        meter = value(
            admin,
            "insert into flows.meter_registry (serial, name, esco) values (%s, 'x', %s)"
            " returning id", f"O{number}", esco,
        )  # fmt: skip
        registers.append(value(
            admin,
            "insert into flows.meter_registers (meter_id) values (%s) returning register_id", meter,
        ))  # fmt: skip
    own, other, nobodys = registers
    rows = [own, own, other, nobodys, own, nobodys, nobodys, other, other, own]
    insert = (
        'insert into flows.register_interval_hh (register_id, "timestamp", import_kwh)'
        " select r, %s::timestamptz + n * interval '30 minutes', 1"
        " from unnest(%s::uuid[]) with ordinality as u (r, n)"
    )
    owned = 'select "timestamp", esco from flows.register_interval_hh where register_id = %s'
    owners: dict[UUID, UUID | None] = {own: UUID(escos[0]), other: UUID(escos[1]), nobodys: None}
    for start in ("2019-01-01Z", "2020-01-01Z"):
        admin.execute(insert.encode(), (start, rows))
        for register, owner in owners.items():
            found = admin.execute(owned.encode(), (register,)).fetchall()
            assert found
            assert {esco for _, esco in found} == {owner}
        admin.execute("update flows.meter_registry set esco = %s where serial = 'O2'", (escos[1],))
        owners[nobodys] = UUID(escos[1])
    become(admin, "flows", escos[0])
    with pytest.raises(psycopg.Error) as refused, admin.transaction():
        admin.execute(insert.replace("flows.", "api.").encode(), ("2021-01-01Z", [own, own, other]))
    assert refused.value.sqlstate == "44000"


def test_a_tenant_names_no_owner(admin: Admin, escos: tuple[str, str]) -> None:
    """The tables behind the views say so too, whatever the statement claims."""
    become(admin, "flows", escos[0])
    circuit = value(
        admin, "insert into flows.circuits (type, esco) values ('power', %s) returning id", escos[1]
    )
    owner = value(admin, "select esco from flows.circuits where id = %s", circuit)
    assert owner == UUID(escos[0])
    admin.execute("update flows.circuits set esco = %s where id = %s", (escos[1], circuit))
    assert value(admin, "select esco from flows.circuits where id = %s", circuit) == owner


def test_a_tenants_circuit_without_a_site_is_the_tenants(
    admin: Admin, escos: tuple[str, str]
) -> None:
    become(admin, "flows", escos[0])
    circuit = value(admin, "insert into api.circuits (type) values ('heat') returning id")
    assert str(circuit) in {row.strip("()").split(",")[0] for row in rows_of(admin, "circuits")}
    become(admin, "flows", escos[1])
    assert value(admin, "select count(*) from api.circuits where id = %s", circuit) == 0
