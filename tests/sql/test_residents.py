"""Residents: each relation shows what belongs to their homes while they live there, and no more."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql

from app.db.isolation import (
    SHARED_RELATIONS,
    ExposedRelation,
    become,
    exposed_relations,
    insertion,
    may,
    rolled_back,
)
from app.db.principal import RESIDENT
from tests.conftest import Stack
from tests.homes import TODAY, Resident, add_resident, add_residents, home_of, may_read
from tests.sql.series import KEYS

Admin = psycopg.Connection[Any]
# A resident has no use for these: the network, the fleet, the operator's own lists.
NOT_GRANTED = {
    "regions",
    "feeder_registry",
    "meter_tophat_registry",
    "meter_metrics",
    "ev_chargers",
}
# Days around which the homes of tests.homes change hands, and the last days.
AROUND = [TODAY - timedelta(days=days) for days in (60, 40, 30, 21, 0)]
FUNCTIONS = {
    "api.current_esco()", "flows.amount(jsonb,text)", "flows.current_esco()",
    "flows.find_own_extent(flows.circuit_register,tstzrange)", "flows.is_planned_for_a_resident()",
    "flows.is_planned_for_every_esco()", "flows.moment(jsonb,text)", "flows.own(text)",
    "flows.own_home()", "flows.own_ids(text)", "flows.own_times(text)",
    "flows.own_data_state(tstzrange)", "flows.own_derived_registers()", "flows.own_sites()",
    "flows.sees_every_esco()", "gateway.authorize()", "gateway.describe_api()",
    *(f"api.newest_own_{series}(integer,boolean)" for series in KEYS),
}  # fmt: skip


@pytest.fixture
def residents(stack: Stack, admin: Admin) -> dict[str, Resident]:
    return add_residents(admin)


def live_as(admin: Admin, resident: Resident) -> None:
    become(admin, RESIDENT, resident.esco, resident.member)


def granted(admin: Admin) -> list[ExposedRelation]:
    """Return the relations that residents may read at all."""
    return [r for r in exposed_relations(admin) if may(admin, RESIDENT, r, "select")]


def rows(admin: Admin, relation: ExposedRelation) -> dict[str, dict[str, Any]]:
    """Return the rows that the current role sees; of long series those of a few days."""
    query = sql.SQL("select t::text, to_jsonb(t) from {} as t").format(relation.identifier)
    if relation.name in ("register_interval_hh", "circuit_interval_hh"):
        query += sql.SQL(
            ' where exists (select from unnest(%s::timestamptz[]) as day where t."timestamp"'
            " between day - interval '1 day' and day + interval '1 day')"
        )
        return dict(admin.execute(query, (AROUND,)).fetchall())
    return dict(admin.execute(query).fetchall())


def test_everything_else_is_not_granted(admin: Admin) -> None:
    names = {relation.name for relation in exposed_relations(admin)}
    assert names - {relation.name for relation in granted(admin)} == NOT_GRANTED


def test_each_row_is_shown_to_whom_the_model_says(
    stack: Stack, admin: Admin, residents: dict[str, Resident]
) -> None:
    """Neighbours, the former and the next resident of a home are each other's strangers."""
    read = dict.fromkeys(residents, 0)
    for relation in granted(admin):
        if relation.name in SHARED_RELATIONS:
            continue
        become(admin, "flows", stack.contract["escos"]["wlce"]["id"])
        everything = rows(admin, relation)
        for name, resident in residents.items():
            live_as(admin, resident)
            seen = rows(admin, relation)
            if relation.name == "circuit_register_extent":
                continue
            expected = {
                text for text, row in everything.items() if may_read(resident, relation.name, row)
            }
            assert set(seen) == expected, (relation.name, name)
            read[name] += len(seen)
    assert all(count > 500 for count in read.values()), read


def test_a_row_of_the_former_resident_is_not_the_next_ones(
    stack: Stack, admin: Admin, residents: dict[str, Resident]
) -> None:
    for relation in granted(admin):
        if (relation.key and "timestamp" not in relation.columns) or relation.name == "escos":
            continue
        if relation.name in SHARED_RELATIONS or relation.name == "circuit_register_extent":
            continue
        live_as(admin, residents["former"])
        before = set(rows(admin, relation))
        live_as(admin, residents["next"])
        assert not before & set(rows(admin, relation)), relation.name


def test_extents_are_those_of_the_stay(admin: Admin, residents: dict[str, Resident]) -> None:
    for name, resident in residents.items():
        live_as(admin, resident)
        told = admin.execute(
            "select register::text, circuit::text, available_from, available_to"
            " from api.circuit_register_extent"
        ).fetchall()
        assert len(told) == sum(len(home.registers) for home, _ in resident.stays), name
        for register, circuit, first, last in told:
            ((start, end),) = resident.stays_of(register)
            assert resident.stays_of(circuit)
            measured = admin.execute(
                'select min("timestamp"), max("timestamp") + interval \'30 minutes\''
                " from api.register_interval_hh where register_id = %s",
                (register,),
            ).fetchone()
            assert (first, last) == measured
            assert first >= start
            assert end is None or last <= end


@pytest.mark.parametrize("with_ties", [False, True])
@pytest.mark.parametrize("number", [7, 10_000])
def test_the_newest_rows_are_the_end_of_what_is_shown(
    admin: Admin, residents: dict[str, Resident], number: int, with_ties: bool
) -> None:
    for series in KEYS:
        label = {"daily": "day", "daily_london": "day", "monthly": "month"}.get(
            series.removeprefix("circuit_interval_"), "timestamp"
        )
        for resident in residents.values():
            live_as(admin, resident)
            newest = [
                row[0]
                for row in admin.execute(
                    f'select t."{label}" from api.newest_own_{series}(%s, %s) as t'.encode(),
                    (number, with_ties),
                )
            ]
            limit = f"fetch first {number} rows {'with ties' if with_ties else 'only'}"
            shown = [
                row[0]
                for row in admin.execute(
                    f'select t."{label}" from api.{series} as t order by 1 desc {limit}'.encode()
                )
            ]
            assert sorted(newest, reverse=True) == shown, series


# Rows that the transaction has looked at, in tables that series and aggregates are kept in.
LOOKED_AT = """
    select sum(coalesce(s.seq_tup_read, 0) + coalesce(s.idx_tup_fetch, 0))::bigint
    from pg_stat_xact_all_tables as s
    where s.relname ~ 'circuit_sums|register_interval_hh|_hyper_'
"""


def test_a_version_looks_at_own_rows_alone(admin: Admin, residents: dict[str, Resident]) -> None:
    """An index by day alone would find the days of all ESCOs."""
    settled, (home, _) = residents["settled"], residents["settled"].stays[0]
    month = (TODAY - timedelta(days=31), TODAY)
    live_as(admin, settled)
    counts: list[int] = []
    for _ in range(2):  # the first is planned
        admin.execute("select version from flows.own_data_state(tstzrange(%s, %s))", month)
        counts += admin.execute(LOOKED_AT).fetchone() or ()
    # Each day, and some half-hours of one that is not summed yet.
    assert 31 <= (counts[1] - counts[0]) / len(home.circuits) <= 100


@pytest.mark.parametrize(
    "who", ["nobody", "a stranger", "of another ESCO", "disabled", "staff", "to come"]
)
def test_who_lives_nowhere_reads_nothing(
    stack: Stack, admin: Admin, residents: dict[str, Resident], who: str
) -> None:
    escos = stack.contract["escos"]
    settled = residents["settled"]
    member, esco = settled.member, settled.esco
    if who == "nobody":
        member = ""
    elif who == "a stranger":
        member = "flm_00000000000000ff"
    elif who == "of another ESCO":
        esco = escos["hmce"]["id"]
    elif who == "disabled":
        admin.execute("update gateway.member set disabled_at = now() where id = %s", (member,))
    elif who == "staff":
        admin.execute("update gateway.member set resident = false where id = %s", (member,))
    else:
        admin.execute(
            "update gateway.residence set start_time = now() + interval '1 day' where member = %s",
            (member,),
        )
    become(admin, RESIDENT, esco, member)
    for relation in granted(admin):
        if relation.name not in SHARED_RELATIONS:
            assert not rows(admin, relation), relation.name
    assert admin.execute("select count(*) from api.newest_own_register_interval_hh(9, true)"
                         ).fetchone() == (0,)  # fmt: skip


@pytest.mark.parametrize("verb", ["insert", "upsert", "update", "delete"])
def test_a_resident_writes_nothing(admin: Admin, residents: dict[str, Resident], verb: str) -> None:
    for relation in exposed_relations(admin):
        live_as(admin, residents["settled"])
        for schema in ("api", "flows"):
            held = admin.execute(
                "select has_any_column_privilege(current_user, %s, 'insert, update')"
                " or has_table_privilege(current_user, %s, 'delete, truncate')",
                2 * (f"{schema}.{relation.name}",),
            ).fetchone()
            assert held == (False,), relation.name
        if verb in ("insert", "upsert"):
            if not relation.key:
                continue
            statement = insertion(relation, upsert=verb == "upsert")
            assert rolled_back(admin, statement, json.dumps({})) is None, relation.name
            continue
        column = sql.Identifier(relation.columns[0])
        query = "delete from {0}" if verb == "delete" else "update {0} set {1} = {1}"
        try:
            written = rolled_back(admin, sql.SQL(query).format(relation.identifier, column))
        except psycopg.errors.ObjectNotInPrerequisiteState:
            written = None  # the view cannot be written at all
        assert written is None, relation.name


def test_a_resident_executes_what_is_its_own(admin: Admin, engine: str) -> None:
    found = admin.execute(
        "select p.oid::regprocedure::text from pg_proc as p"
        " where p.pronamespace = any(array['flows', 'api', 'gateway']::regnamespace[])"
        " and has_function_privilege(%s, p.oid, 'execute')",
        (RESIDENT,),
    )
    sums = {"flows.joined_sets(uuid[],uuid[])", "flows.union_of(uuid[])"}
    expected = FUNCTIONS | (sums if engine == "timescale" else set())
    assert {row[0] for row in found} == expected


def test_what_supplies_a_neighbour_too_is_nobodys(
    admin: Admin, residents: dict[str, Resident]
) -> None:
    """A landlord's supply: its energy would tell of the neighbour's."""
    settled, (home, _) = residents["settled"], residents["settled"].stays[0]
    admin.execute(
        "insert into flows.properties_service_head (property, service_head) values (%s, %s)",
        (home_of(admin, "5").house, home.head),
    )
    live_as(admin, settled)
    for relation in granted(admin):
        if relation.name in (*SHARED_RELATIONS, "escos", "sites_new", "properties"):
            continue
        assert not rows(admin, relation), relation.name
    assert admin.execute("select id::text from api.properties").fetchall() == [(home.house,)]
    # Of somebody who has both homes it is all.
    both = add_resident(
        admin, 9, [(home_of(admin, "5"), (TODAY - timedelta(days=9), None)),
                   (home, (TODAY - timedelta(days=20), TODAY - timedelta(days=2)))],
    )  # fmt: skip
    live_as(admin, both)
    bounds = admin.execute(
        'select min("timestamp"), max("timestamp") from api.register_interval_hh'
        " where register_id = %s",
        (home.registers[0],),
    ).fetchone()
    assert bounds == (
        TODAY - timedelta(days=9), TODAY - timedelta(days=2, minutes=30),
    )  # fmt: skip


def test_a_circuit_is_hidden_while_a_neighbours_register_feeds_it(
    stack: Stack, admin: Admin, engine: str, residents: dict[str, Resident]
) -> None:
    settled, (home, _) = residents["settled"], residents["settled"].stays[0]
    other = home_of(admin, "5").registers[0]
    start, end = TODAY - timedelta(days=20, hours=-6), TODAY - timedelta(days=10)
    admin.execute(
        "insert into flows.circuit_register (circuit, register, start_time, end_time)"
        " values (%s, %s, %s, %s)",
        (home.circuits[0], other, start, end),
    )
    # As when the aggregates have followed.
    admin.execute("update flows.change set followed_at = now() where followed_at is null")
    live_as(admin, settled)
    days = {
        row[0] for row in admin.execute(
            "select day from api.circuit_interval_daily where circuit_id = %s", (home.circuits[0],)
        )
    }  # fmt: skip
    hidden = {TODAY - timedelta(days=n) for n in range(11, 21)}
    assert not days & hidden
    assert {TODAY - timedelta(days=21), end, TODAY - timedelta(days=1)} <= days
    halves = admin.execute(
        'select count(*), min("timestamp") from api.circuit_interval_hh where circuit_id = %s'
        ' and "timestamp" >= %s and "timestamp" < %s',
        (home.circuits[0], start - timedelta(hours=1), end + timedelta(hours=1)),
    ).fetchone()
    assert halves == (4, start - timedelta(hours=1))
    # The registers stay the resident's, and the neighbour's is not shown.
    count = admin.execute(
        'select count(*) from api.register_interval_hh where "timestamp" >= %s and "timestamp" < %s'
        " and register_id = any(%s)",
        (start, end, list(home.registers)),
    ).fetchone()
    assert count == (len(home.registers) * int((end - start) / timedelta(minutes=30)),)
    mapped = {str(row[0]) for row in admin.execute("select register from api.circuit_register")}
    assert mapped == set(home.registers)


def test_sums_that_do_not_follow_a_mapping_yet_are_hidden(
    admin: Admin, residents: dict[str, Resident]
) -> None:
    """They may be of a neighbour's register, which was mapped by mistake a moment ago."""
    settled, (home, _) = residents["settled"], residents["settled"].stays[0]
    admin.execute(
        "insert into flows.change (esco, kind, period, touched_circuits) values (%s, 'mapping',"
        " tstzrange(%s, %s), %s::uuid[])",
        (home.esco, TODAY - timedelta(days=5), TODAY - timedelta(days=3), [home.circuits[0]]),
    )
    live_as(admin, settled)
    shown = [
        [
            row[0] for row in admin.execute(
                "select day from api.circuit_interval_daily where circuit_id = %s and day >= %s"
                " and day < %s order by 1",
                (circuit, TODAY - timedelta(days=6), TODAY - timedelta(days=2)),
            )
        ]
        for circuit in home.circuits
    ]  # fmt: skip
    days = [TODAY - timedelta(days=n) for n in (6, 5, 4, 3)]
    assert shown == [[days[0], days[3]], days]


def test_a_link_between_escos_is_impossible(stack: Stack, admin: Admin) -> None:
    home, foreign = home_of(admin, "1"), home_of(admin, "1", "hmce")
    resident = add_resident(admin, 7, [])
    link = (
        "insert into gateway.residence (member, property, esco, start_time, end_time)"
        " values (%s, %s, %s, '2026-01-01Z', %s)"
    )
    for esco in (home.esco, foreign.esco):
        with (
            admin.transaction(force_rollback=True),
            pytest.raises(psycopg.errors.ForeignKeyViolation),
        ):
            admin.execute(link, (resident.member, foreign.house, esco, None))
    with admin.transaction(force_rollback=True), pytest.raises(psycopg.errors.CheckViolation):
        admin.execute(link, (resident.member, home.house, home.esco, "2026-01-01Z"))
    admin.execute(link, (resident.member, home.house, home.esco, "2026-02-01Z"))
    with admin.transaction(force_rollback=True), pytest.raises(psycopg.errors.ExclusionViolation):
        admin.execute(
            "insert into gateway.residence (member, property, esco, start_time)"
            " values (%s, %s, %s, '2026-01-31Z')",
            (resident.member, home.house, home.esco),
        )
    # The same person comes back, and another one may live there meanwhile.
    admin.execute(
        "insert into gateway.residence (member, property, esco, start_time)"
        " values (%s, %s, %s, '2026-02-01Z')",
        (resident.member, home.house, home.esco),
    )
    add_resident(admin, 8, [(home, (datetime(2026, 1, 1, tzinfo=UTC), None))])


@pytest.mark.parametrize("scopes", ["{read,write}", "{read,admin}", "{write}"])
def test_a_resident_has_the_scope_read_alone(admin: Admin, scopes: str) -> None:
    resident = add_resident(admin, 7, [])
    with pytest.raises(psycopg.errors.CheckViolation):
        admin.execute(
            "update gateway.member set scopes = %s where id = %s", (scopes, resident.member)
        )


def test_a_home_and_a_member_can_be_deleted(admin: Admin, residents: dict[str, Resident]) -> None:
    former, (home, _) = residents["former"], residents["former"].stays[0]
    admin.execute("delete from flows.properties_service_head where property = %s", (home.house,))
    become(admin, "flows", home.esco)
    admin.execute("delete from api.properties where id = %s", (home.house,))
    admin.execute("reset role")
    left = "select count(*) from gateway.residence where member = %s"
    assert admin.execute(left, (former.member,)).fetchone() == (0,)
    settled = residents["settled"].member
    admin.execute("delete from gateway.member where id = %s", (settled,))
    assert admin.execute(left, (settled,)).fetchone() == (0,)


def test_a_meter_that_moves_to_another_esco_leaves_the_resident_its_history(
    stack: Stack, admin: Admin, residents: dict[str, Resident]
) -> None:
    settled, (home, _) = residents["settled"], residents["settled"].stays[0]
    counted = "select register_id, count(*) from api.register_interval_hh group by 1 order by 1"
    live_as(admin, settled)
    before = admin.execute(counted).fetchall()
    assert len(before) == len(home.registers)
    admin.execute("reset role")
    admin.execute(
        "update flows.meter_registry set esco = %s where id = %s",
        (stack.contract["escos"]["hmce"]["id"], home.meter),
    )
    live_as(admin, settled)
    assert admin.execute(counted).fetchall() == before
    # The meter is another's now, who has new registers of it.
    assert admin.execute("select id from api.meter_registry where id = %s", (home.meter,)
                         ).fetchall() == []  # fmt: skip


MOVES = {
    "the meter":
        "update api.service_head_meter set service_head = %(new_head)s where meter = %(meter)s",
    "the meter, entered anew":
        "delete from api.service_head_meter where meter = %(meter)s;"
        "insert into api.service_head_meter (service_head, meter) values (%(new_head)s, %(meter)s)",
    "the service head":
        "update api.properties_service_head set property = %(new_house)s"
        " where service_head = %(head)s",
}  # fmt: skip


@pytest.mark.parametrize("what", MOVES)
def test_what_moves_to_another_home_leaves_its_history_there(
    admin: Admin, residents: dict[str, Resident], what: str
) -> None:
    settled, (home, _) = residents["settled"], residents["settled"].stays[0]
    other = home_of(admin, "5")
    neighbour = add_resident(admin, 9, [(other, (TODAY - timedelta(days=400), None))])
    moved = TODAY - timedelta(days=2, hours=-6)
    admin.execute("select set_config('flows.moved_at', %s, true)", (moved.isoformat(),))
    become(admin, "flows", home.esco)
    ids = {
        "meter": home.meter, "head": home.head, "new_head": other.head, "new_house": other.house,
    }  # fmt: skip
    for statement in MOVES[what].split(";"):
        admin.execute(statement.encode(), ids)
    half_hour, day = timedelta(minutes=30), timedelta(days=1)
    for series, key, own, gap in (
        ("register_interval_hh", "register_id", home.registers, half_hour),
        ("circuit_interval_hh", "circuit_id", home.circuits, half_hour),
        ("meter_voltage", "meter_id", (home.meter,), day),
    ):
        query = (
            f'select min("timestamp"), max("timestamp") from api.{series}'
            f" where {key} = any(%s::uuid[]) having count(*) > 0"
        ).encode()
        live_as(admin, settled)
        ((first, last),) = admin.execute(query, (list(own),)).fetchall()
        assert first < moved - 7 * day, series
        assert moved - gap <= last < moved, series
        live_as(admin, neighbour)
        ((first, last),) = admin.execute(query, (list(own),)).fetchall()
        assert moved <= first < moved + gap, series
        assert last > moved + timedelta(hours=20), series
    of_today = "select count(*) from api.meter_shadows as s join api.meter_registry as m using (id)"
    for resident, count in ((settled, 0), (neighbour, 2)):
        live_as(admin, resident)
        assert admin.execute(of_today.encode()).fetchone() == (count,)


def test_a_meter_is_not_linked_to_another_home_before_it_leaves_the_one(
    admin: Admin, residents: dict[str, Resident]
) -> None:
    """Its history would be hidden from both; where nobody lives, nothing is."""
    home, empty, other = residents["settled"].stays[0][0], home_of(admin, "5"), home_of(admin, "6")
    link = "insert into api.service_head_meter (service_head, meter) values (%s, %s)"
    become(admin, "flows", home.esco)
    with pytest.raises(psycopg.Error, match="home with residents") as refusal, admin.transaction():
        admin.execute(link, (other.head, home.meter))
    assert refusal.value.sqlstate == "PT409"
    again = f"{link} on conflict (service_head, meter) do update set meter = excluded.meter"
    admin.execute(again.encode(), (home.head, home.meter))
    # Another service head of the same home hides nothing.
    admin.execute(
        "insert into api.properties_service_head (property, service_head) values (%s, %s)",
        (home.house, other.head),
    )
    admin.execute("delete from api.properties_service_head where property = %s", (other.house,))
    admin.execute(link, (other.head, home.meter))
    admin.execute(link, (other.head, empty.meter))
    live_as(admin, residents["settled"])
    seen = {str(row[0]) for row in admin.execute("select id from api.meter_registry")}
    assert home.meter in seen


def test_what_a_neighbour_had_stays_hidden(admin: Admin, residents: dict[str, Resident]) -> None:
    """A supply that was shared once tells of the neighbour, also when the neighbour's home goes."""
    home = residents["settled"].stays[0][0]
    row = admin.execute(
        "insert into flows.properties (plot, site) values ('99', %s) returning id", (home.site,)
    ).fetchone()
    assert row is not None
    admin.execute(
        "insert into flows.properties_service_head (property, service_head) values (%s, %s)",
        (row[0], home.head),
    )
    moved = TODAY - timedelta(days=5)
    admin.execute("select set_config('flows.moved_at', %s, true)", (moved.isoformat(),))
    admin.execute("delete from flows.properties_service_head where property = %s", (row[0],))
    admin.execute("delete from flows.properties where id = %s", (row[0],))
    live_as(admin, residents["settled"])
    first = admin.execute('select min("timestamp") from api.register_interval_hh').fetchone()
    assert first == (moved,)


@pytest.mark.parametrize(
    "change",
    ["site = (select s.id from flows.sites_new as s where s.esco = %(esco)s limit 1)",
     "site = null, esco = %(esco)s"],
)  # fmt: skip
def test_a_home_with_residents_stays_with_its_esco(
    stack: Stack, admin: Admin, residents: dict[str, Resident], change: str
) -> None:
    home = residents["former"].stays[0][0]
    # A link to a service head would be refused as well.
    admin.execute("delete from flows.properties_service_head where property = %s", (home.house,))
    with pytest.raises(psycopg.errors.ForeignKeyViolation, match="residence_property_owner_fkey"):
        admin.execute(
            f"update flows.properties set {change} where id = %(house)s".encode(),
            {"esco": stack.contract["escos"]["hmce"]["id"], "house": home.house},
        )


def authorize(admin: Admin, **claims: object) -> None:
    """Run the check of a request with a resident's token."""
    admin.execute("reset role")
    asked = {"aud": "flows", "role": "resident", "scope": "read", "jti": "x", "client_id": "fla_x"}
    admin.execute(
        "select set_config('request.jwt.claims', %s, true), set_config('role', %s, true)",
        (json.dumps(asked | claims), str((asked | claims)["role"])),
    )
    with admin.transaction():
        admin.execute("select gateway.authorize()")


def test_the_token_says_who_lives_there(
    stack: Stack, admin: Admin, residents: dict[str, Resident]
) -> None:
    settled, (home, _) = residents["settled"], residents["settled"].stays[0]
    token = {"sub": settled.member, "esco": settled.esco}
    authorize(admin, **token)
    assert admin.execute("select id::text from api.properties").fetchall() == [(home.house,)]
    # The gateway's own token, which reads the schema.
    authorize(admin, sub="flows-gateway", client_id="flows-gateway", esco=settled.esco)
    assert admin.execute("select count(*) from api.properties").fetchone() == (0,)
    for refused in (
        token | {"sub": "flm_00000000000000ff"},
        token | {"esco": stack.contract["escos"]["hmce"]["id"]},
        token | {"role": "public_backend"},
        token | {"role": "flows", "scope": "read write"},
    ):
        with pytest.raises(psycopg.Error) as refusal:
            authorize(admin, **refused)
        assert refusal.value.sqlstate == "PT401"
    with pytest.raises(psycopg.Error):
        authorize(admin, sub=settled.member)
    admin.execute("reset role")
    admin.execute("update gateway.member set disabled_at = now() where id = %s", (settled.member,))
    with pytest.raises(psycopg.Error):
        authorize(admin, **token)


@pytest.mark.parametrize(
    "setting",
    ["search_path = pg_temp, flows", "row_security = off", "plan_cache_mode = force_generic_plan",
     "enable_indexscan = off", "app.own_meters = 'x'"],
)  # fmt: skip
def test_no_setting_shows_a_neighbours_row(
    admin: Admin, residents: dict[str, Resident], setting: str
) -> None:
    live_as(admin, residents["settled"])
    own = residents["settled"].stays[0][0].ids
    for query in (
        "select id::text from api.meter_registry", "select id::text from flows.circuits",
        "select distinct register_id::text from api.register_interval_hh",
        "select distinct circuit_id::text from api.circuit_interval_daily",
    ):  # fmt: skip
        try:
            with admin.transaction(force_rollback=True):
                admin.execute(f"set local {setting}".encode())
                seen = {row[0] for row in admin.execute(query.encode())}
        except psycopg.Error:
            continue
        assert seen <= own


def test_a_plan_made_for_a_tenant_serves_no_resident(
    stack: Stack, admin: Admin, residents: dict[str, Resident]
) -> None:
    """One session asks the same prepared statement as one and as the other."""
    admin.execute("set local plan_cache_mode = force_generic_plan")
    admin.execute(
        "prepare asked as select count(distinct register_id) from api.register_interval_hh"
    )
    counts = {}
    for _ in range(2):
        become(admin, "public_backend", residents["settled"].esco)
        counts["tenant"] = admin.execute("execute asked").fetchone()
        live_as(admin, residents["settled"])
        counts["resident"] = admin.execute("execute asked").fetchone()
    assert counts["resident"] == (2,)
    assert (counts["tenant"] or (0,)) > (20,)
