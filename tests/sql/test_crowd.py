"""A tenant among a hundred others: no plan reads a row of another."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import psycopg
import pytest

from app.db.isolation import SHARED_RELATIONS, become, exposed
from app.db.principal import RESIDENT
from tests.conftest import Stack
from tests.homes import Resident, add_residents
from tests.sql.series import TIME_SERIES
from tests.sql.test_plans import nested_plans, nodes

Admin = psycopg.Connection[Any]
# Past the triggers, each row with its owner; every kind of row that a tenant has.
CROWD = (
    "set local session_replication_role = replica",
    "create temporary table e on commit drop as"
    " select gen_random_uuid() as esco, n from generate_series(1, 100) as n",
    "create temporary table m on commit drop as"
    " select e.*, gen_random_uuid() as site, gen_random_uuid() as feeder,"
    " gen_random_uuid() as meter, gen_random_uuid() as head, gen_random_uuid() as house,"
    " n * 100 + k as number from e, generate_series(1, 12) as k",
    "create temporary table r on commit drop as"
    " select m.*, gen_random_uuid() as register, gen_random_uuid() as circuit, element"
    " from m, unnest(array['A', 'B']) as element",
    # In every week of the demo, that no chunk is so small that reading it whole is best.
    "create temporary table t on commit drop as select date_trunc('hour', now())"
    " - n * interval '7 days' as at from generate_series(0, 13) as n",
    "insert into flows.escos (id, code, name) select esco, 'crowd-' || n, 'x' from e",
    "insert into flows.sites_new (id, esco, name) select site, esco, 'x' from m",
    "insert into flows.feeder_registry (id, esco, name) select feeder, esco, 'crowd-' || number"
    " from m",
    "insert into flows.ev_chargers (esco, serial, pin) select esco, 'EVCROWD1', '0000' from m",
    "insert into flows.meter_registry (id, esco, serial, name, site)"
    " select meter, esco, 'CROWD' || number, 'x', site from m",
    "insert into flows.meter_shadows (id, esco, balance, clock_time_diff_seconds)"
    " select meter, esco, 1, 100 from m",
    "insert into flows.meter_tophat_registry (meter, esco) select meter, esco from m",
    "insert into flows.properties (id, esco, plot, site) select house, esco, 'x', site from m",
    "insert into flows.service_head_registry (id, esco, name, feeder)"
    " select head, esco, 'crowd-' || number, feeder from m",
    "insert into flows.service_head_meter (service_head, meter, esco) select head, meter, esco"
    " from m",
    "insert into flows.properties_service_head (property, service_head, esco)"
    " select house, head, esco from m",
    "insert into flows.meter_registers (register_id, meter_id, element, esco)"
    " select register, meter, element, esco from r",
    "insert into flows.circuits (id, esco, type, site) select circuit, esco, 'power', site from r",
    "insert into flows.circuit_register (circuit, register, esco, start_time)"
    " select circuit, register, esco, now() - interval '1 year' from r",
    "insert into flows.register_extent (register_id, esco, available_from, available_to)"
    " select register, esco, min(at), max(at) + interval '30 minutes' from r, t group by 1, 2",
    'insert into flows.register_interval_hh (register_id, esco, "timestamp", import_kwh)'
    " select register, esco, at, 1 from r, t",
    'insert into flows.register_import (register_id, esco, "timestamp", read)'
    " select register, esco, at, 1 from r, t",
    'insert into flows.register_export (register_id, esco, "timestamp", read)'
    " select register, esco, at, 1 from r, t",
    'insert into flows.meter_voltage (meter_id, esco, "timestamp") select meter, esco, at'
    " from m, t",
    'insert into flows.meter_3p_voltage (meter_id, esco, "timestamp") select meter, esco, at'
    " from m, t",
    'insert into flows.meter_csq (meter_id, esco, "timestamp") select meter, esco, at from m, t',
    'insert into flows.meter_health_history (meter_id, esco, "timestamp") select meter, esco, at'
    " from m, t",
    'insert into flows.meter_prepay_balance (meter_id, esco, "timestamp") select meter, esco, at'
    " from m, t",
    'insert into flows.meter_event_log (meter_id, esco, "timestamp", event_type)'
    " select meter, esco, at, 1 from m, t",
    "set local session_replication_role = origin",
    # A page that has the rows of several is best read whole, as in a chunk of the columnstore.
    "set local enable_seqscan = off",
)  # fmt: skip
AGGREGATED = {
    "circuit_sums_hh": 'select circuit, esco, at from r, t',
    "circuit_sums_daily": "select distinct circuit, esco, date_trunc('day', at) from r, t",
    "circuit_sums_daily_london":
        "select distinct circuit, esco, date_trunc('day', at, 'Europe/London') from r, t",
    "circuit_sums_monthly": "select distinct circuit, esco, date_trunc('month', at) from r, t",
}  # fmt: skip
# The table that keeps an aggregate's rows, by engine.
KEPT = {
    "timescale": "select format('%I.%I', materialization_hypertable_schema,"
    " materialization_hypertable_name)"
    " from timescaledb_information.continuous_aggregates where view_name = ",
    "postgres": "select 'flows.' || ",
}
FILL = """
    do $fill$
    declare
        kept text := ({kept}'{name}');
    begin
        execute format($$insert into %s (circuit_id, esco, "{label}") {rows}$$, kept);
        execute format('analyze %s', kept);
    end $fill$
"""
ANALYZE = """
    do $$
    declare
        found regclass;
    begin
        for found in
            select oid from pg_class where relnamespace = 'flows'::regnamespace
                and relkind in ('r', 'p') and not relispartition
        loop
            execute format('analyze %s', found);
        end loop;
    end $$
"""
LABELS = {"hh": "timestamp", "monthly": "month"}


def crowd_statements(engine: str) -> list[str]:
    """The statements that put a hundred more ESCOs into the tables and aggregates."""
    fills = [
        FILL.format(
            kept=KEPT[engine],
            name=name,
            label=LABELS.get(name.removeprefix("circuit_sums_"), "day"),
            rows=rows,
        )
        for name, rows in AGGREGATED.items()
    ]
    return [*CROWD, "set local timescaledb.skip_cagg_invalidation = on", *fills, ANALYZE]


def set_as_postgrest(session: Admin) -> None:
    """Set for a transaction what PostgREST's sessions have."""
    ((settings,),) = session.execute(
        "select setconfig from pg_db_role_setting where setrole = 'authenticator'::regrole"
    ).fetchall()
    for setting in settings:
        session.execute("select set_config(%s, %s, true)", setting.split("=", 1))


@pytest.fixture(scope="module")
def crowd(stack: Stack, engine: str) -> Iterator[Admin]:
    """A superuser's connection, among whose rows are those of a hundred more ESCOs."""
    with psycopg.connect(stack.contract["database_url"]) as admin:
        for statement in crowd_statements(engine):
            admin.execute(statement.encode())
        yield admin
        admin.rollback()


# Rolled back, they leave so many pages that a few rows cost more by an index than the whole table.
EMPTY_PAGES = (
    "set local session_replication_role = replica",
    "insert into flows.meter_registers (register_id, meter_id, element, esco)"
    " select gen_random_uuid(), meter_id, element, esco"
    " from flows.meter_registers, generate_series(1, 10)",
    "insert into flows.circuit_register (circuit, register, esco, start_time)"
    " select circuit, register, esco, start_time + n * interval '1 day'"
    " from flows.circuit_register, generate_series(1, 10) as n",
)  # fmt: skip
# The tables, partitions and chunks that have a row's owner in them.
OWNERS = (
    "select c.relname from pg_attribute as a join pg_class as c on a.attrelid = c.oid"
    " where a.attname = 'esco' and c.relkind in ('r', 'p')"
)


def owners(admin: Admin) -> set[str]:
    """The names of the tables that have owned rows."""
    return {row[0] for row in admin.execute(OWNERS)}


def foreign_rows(session: Admin, query: str, owned: set[str]) -> list[str]:
    """Scans of a query that look at a row and leave it for being another's."""
    (found,) = session.execute(f"explain (analyze, format json) {query}".encode()).fetchone() or (
        [],
    )
    return foreign_scans(found[0]["Plan"], owned)


def foreign_scans(plan: dict[str, Any], owned: set[str]) -> list[str]:
    """Scans of a plan that look at a row and leave it for being another's."""
    return [
        f"{node['Relation Name']}: {node['Rows Removed by Filter']} rows by {node['Filter']}"
        for node in nodes(plan)
        if node.get("Relation Name") in owned
        and node.get("Rows Removed by Filter", 0) > 0
        and "esco" in node["Filter"]
    ]


def test_79_no_relation_looks_at_a_row_of_another(stack: Stack, crowd: Admin) -> None:
    owned = owners(crowd)
    assert "meter_registry" in owned
    offences = {}
    for relation in exposed(crowd):
        if relation in SHARED_RELATIONS:
            continue
        for role in ("flows", "public_backend"):
            become(crowd, role, stack.contract["escos"]["wlce"]["id"])
            if found := foreign_rows(crowd, f"select * from api.{relation}", owned):
                offences[relation] = found
    become(crowd, "none", None)
    assert offences == {}


def test_many_mappings_of_one_look_at_few_rows_of_others(stack: Stack, crowd: Admin) -> None:
    """A join of a thousand mappings would read all circuits and mappings of the platform."""
    become(crowd, "none", None)
    with crowd.transaction(force_rollback=True):
        for statement in EMPTY_PAGES:
            crowd.execute(statement.encode())
    with crowd.transaction(force_rollback=True):
        crowd.execute("analyze flows.meter_registers, flows.circuit_register")
        crowd.execute("set local enable_seqscan = on")
        plans = nested_plans(
            crowd,
            "insert into flows.circuit_register (circuit, register, start_time)"
            " select other.circuit, m.register, '2050-01-01Z' from flows.circuit_register as m"
            " join flows.circuit_register as other using (esco)"
            f" where esco = '{stack.contract['escos']['wlce']['id']}'"
            " and m.circuit <> other.circuit order by m.register, other.circuit limit 500",
        )
    looks = [
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0), node)
        for plan in plans[:-1]  # the last is the statement itself
        for node in nodes(plan)
        if node.get("Relation Name") in ("circuits", "circuit_register", "meter_registers")
    ]
    assert len(looks) > 3
    assert [node for rows, node in looks if rows > 1000] == []


def test_no_relation_looks_at_a_row_of_another_for_a_few_rows(crowd: Admin) -> None:
    """Where many rows are expected, a limit seems to need but a few of a table read whole."""
    become(crowd, "none", None)
    owned, offences = owners(crowd), {}
    # Its rows are in the middle of each table.
    ((own,),) = crowd.execute("select id::text from flows.escos where code = 'crowd-50'").fetchall()
    set_as_postgrest(crowd)
    crowd.execute("set local enable_seqscan = on")
    for relation, rows in product(sorted(set(exposed(crowd)) - SHARED_RELATIONS), (1, 10, 100)):
        become(crowd, "public_backend", own)
        # As of tables of many times the size, of which no page is read whole.
        for cost in (10, 30, 100):
            crowd.execute("select set_config('seq_page_cost', %s, true)", (str(cost),))
            query = f"select * from api.{relation} limit {rows}"
            if found := foreign_rows(crowd, query, owned):
                offences[relation, rows, cost] = found
    become(crowd, "none", None)
    crowd.execute("set local enable_seqscan = off")
    crowd.execute("set local seq_page_cost to default")
    assert offences == {}


def test_the_signal_of_each_meter_is_looked_up_once(stack: Stack, crowd: Admin) -> None:
    """Who is offline was asked, for each meter, of the signals of all."""
    own = stack.contract["escos"]["wlce"]["id"]
    ((meters,),) = crowd.execute(
        "select count(*) from flows.meter_registry where esco = %s", (own,)
    ).fetchall()
    become(crowd, "public_backend", own)
    ((found,),) = crowd.execute(
        "explain (analyze, format json) select * from api.meters_offline_all"
    ).fetchall()
    become(crowd, "none", None)
    read = [
        node["Actual Rows"] * node["Actual Loops"]
        for node in nodes(found[0]["Plan"])
        if node.get("Relation Name") == "meter_registry"
    ]
    assert len(read) == 2
    assert max(read) <= meters


def test_of_a_meters_signals_only_the_newest_is_read(stack: Stack, crowd: Admin) -> None:
    """Among many ESCOs each signal was expected to be another's, so all were read and sorted."""
    become(crowd, "none", None)
    set_as_postgrest(crowd)
    crowd.execute("set local enable_seqscan = on")
    become(crowd, "public_backend", stack.contract["escos"]["wlce"]["id"])
    for relation in ("meter_csq_latest", "meters_offline_all"):
        ((found,),) = crowd.execute(
            f"explain (analyze, format json) select * from api.{relation} limit 100".encode()
        ).fetchall()
        read = [
            node["Actual Rows"]
            for node in nodes(found[0]["Plan"])
            if node.get("Index Cond", "").startswith("(meter_id = meter")
        ]
        assert read
        assert sum(read) <= 1, relation
    become(crowd, "none", None)
    crowd.execute("set local enable_seqscan = off")


def test_what_an_esco_has_is_found_among_its_own_rows(stack: Stack, crowd: Admin) -> None:
    """The gateway asks for it where it joins by hashes alone, which reads both tables whole."""
    become(crowd, "none", stack.contract["escos"]["wlce"]["id"])
    ((registers,),) = crowd.execute(
        "select count(*) from flows.meter_registers where esco = flows.current_esco()"
    ).fetchall()
    with crowd.transaction(force_rollback=True):
        for setting in ("enable_nestloop", "enable_mergejoin"):
            crowd.execute(f"set local {setting} = off".encode())
        crowd.execute("set local enable_seqscan = on")
        crowd.execute("set local session_replication_role = replica")
        crowd.execute(
            "update flows.circuit_register set start_time = now() - interval '1 day'"
            " where esco = flows.current_esco()"
        )
        plans = nested_plans(crowd, "select * from flows.ever_available()")
    become(crowd, "none", None)
    looks = [
        ((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"], node)
        for plan in plans
        for node in nodes(plan)
        if node.get("Relation Name")
    ]
    assert len(looks) > 10
    assert [node for rows, node in looks if rows > registers] == []


@pytest.fixture(scope="module")
def residents(crowd: Admin) -> dict[str, Resident]:
    """The demo's residents among the crowd."""
    return add_residents(crowd)


def test_no_series_looks_at_a_row_of_a_residents_neighbour(
    crowd: Admin, residents: dict[str, Resident]
) -> None:
    """Neither of one ESCO nor of who lived in the home before or after."""
    owned, offences = owners(crowd), {}
    for series in sorted(TIME_SERIES):
        for name in ("settled", "former"):
            become(crowd, RESIDENT, residents[name].esco, residents[name].member)
            ((found,),) = crowd.execute(
                f"explain (analyze, format json) select * from api.{series}".encode()
            ).fetchall()
            removed = {
                node["Relation Name"]: node["Rows Removed by Filter"]
                for node in nodes(found[0]["Plan"])
                if node.get("Relation Name") in owned and node.get("Rows Removed by Filter")
            }
            if removed:
                offences[series, name] = removed
    become(crowd, "none", None)
    assert offences == {}


# Rows that the transaction has looked at, other than those that say which policies hold.
LOOKED_AT = """
    select sum(coalesce(s.seq_tup_read, 0) + coalesce(s.idx_tup_fetch, 0))::integer
    from pg_stat_xact_all_tables as s where s.schemaname in ('flows', 'gateway')
"""


def test_what_is_a_residents_own_is_found_by_a_few_rows(
    crowd: Admin, residents: dict[str, Resident]
) -> None:
    """A plan that begins at the wrong end of a link reads the links of all ESCOs."""
    resident = residents["settled"]
    counts: list[int] = []
    for _ in range(2):  # the first is planned
        become(crowd, RESIDENT, resident.esco, resident.member)
        become(crowd, "none", None)
        counts += crowd.execute(LOOKED_AT).fetchone() or ()
    assert 8 <= counts[1] - counts[0] <= 100


def test_79_no_prepared_statement_looks_at_a_row_of_another(stack: Stack, crowd: Admin) -> None:
    become(crowd, "none", None)
    owned = owners(crowd)
    set_as_postgrest(crowd)
    become(crowd, "public_backend", stack.contract["escos"]["wlce"]["id"])
    crowd.execute(
        "prepare asked (timestamptz, uuid[]) as select * from api.circuit_interval_daily"
        " where day >= $1 and circuit_id = any($2) order by day desc limit 100"
    )
    ((circuits,),) = crowd.execute(
        "select array(select id::text from api.circuits order by id limit 5)"
    ).fetchall()
    asked = f"execute asked (now() - interval '9 days', '{{{','.join(circuits)}}}')"
    for _ in range(7):  # the sixth time PostgreSQL chooses between plans with and without values
        crowd.execute(asked.encode())
    assert foreign_rows(crowd, asked, owned) == []
    become(crowd, "none", None)


def test_79_a_filter_that_removes_foreign_rows_is_found(stack: Stack, crowd: Admin) -> None:
    become(crowd, "none", None)
    own = stack.contract["escos"]["wlce"]["id"]
    slow = f"select * from flows.meter_csq where esco = '{own}' or name = 'x'"
    slow = slow.replace("name", "meter_id::text")
    assert foreign_rows(crowd, slow, owners(crowd))
