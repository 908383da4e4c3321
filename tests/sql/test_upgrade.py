"""A database of 0.1, upgraded, equals a fresh one and has lost nothing.

`baseline` contains sql/ as shipped with 0.1, and a part of the demo's rows; neither ever changes.
"""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from app.db.copy import copied_tables
from app.db.migrate import MigrationError, migrate
from app.db.schema import SQL, migrations, program_version
from app.doctor.database import examine_schema
from app.doctor.finding import Finding
from app.embedded.programs import binaries
from tests.conftest import Stack, flows, running_stack, wait_until
from tests.databases import new_database
from tests.sql.series import KEYS

BASELINE = Path(__file__).parent / "baseline"
TABLES = """
    select c.oid::regclass::text from pg_class as c
    where c.relnamespace = any(array['flows', 'gateway']::regnamespace[])
        and c.relkind in ('r', 'p') and not c.relispartition and c.relname !~ '^schema_'
    order by 1
"""
OWN_ESCO = {
    f"flows.{name}" for name in ("sites_new", "feeder_registry", "meter_registry", "ev_chargers")
} | {"flows.change", "gateway.client", "gateway.token", "gateway.audit", "gateway.disabled_esco"}
LATER_COLUMNS = {
    "mpan", "transaction", "horizon", "effective_at", "dimensions", "touched_registers",
    "touched_circuits", "kwh", "narrow_csq",
}  # fmt: skip
SECRETS = "select id, client, hash, created_at, {digest} from gateway.client_secret order by id"
PROGRAM = program_version()
NEXT, LATER = f"{PROGRAM + 1:04}", f"{PROGRAM + 2:04}"
AGGREGATES = ("hh", "daily", "daily_london", "monthly")
# Queries for the engine's settings of the series that are not part of the schema.
ENGINE_STATE = {
    "postgres": ("select * from flows.retention order by 1",),
    "timescale": (
        "select * from flows.retention order by 1",
        "select hypertable_name, column_name, time_interval::text"
        " from timescaledb_information.dimensions where hypertable_schema = 'flows' order by 1",
        "select hypertable::text, segmentby, orderby"
        " from timescaledb_information.hypertable_columnstore_settings"
        " where hypertable::text !~ '_materialized_' order by 1",
        "select proc_name, schedule_interval::text, hypertable_name ~ '^_mat', config - array["
        "'mat_hypertable_id', 'hypertable_id'], owner::text"
        " from timescaledb_information.jobs where application_name !~ 'Telemetry|Log|Job History'"
        " order by proc_name, config::text, hypertable_name",
    ),
}


@pytest.fixture
def scratch(stack: Stack) -> Iterator[Callable[[], str]]:
    """A function that creates empty databases for the duration of a test."""
    with ExitStack() as made:
        yield lambda: made.enter_context(new_database(stack.contract["database_url"]))


@pytest.fixture
def migrated(stack: Stack) -> Iterator[str]:
    """An up-to-date database."""
    with new_database(stack.contract["database_url"], migrated=True) as url:
        yield url


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of sql/ to which a test can add files."""
    return Path(shutil.copytree(SQL, tmp_path / "sql"))


def make_baseline(url: str, engine: str) -> None:
    """Create a database of 0.1 with rows, as dbmate did."""
    files = [*BASELINE.glob("*.sql"), *(BASELINE / engine).glob("*.sql")]
    with psycopg.connect(url, autocommit=True) as connection:
        if engine == "timescale":
            connection.execute("create extension timescaledb")
        connection.execute("create table schema_migrations (version varchar(128) primary key)")
        for file in sorted(files, key=lambda file: file.name):
            with connection.transaction():
                connection.execute(file.read_bytes())
                number = file.name.split("_")[0]
                connection.execute("insert into schema_migrations values (%s)", (number,))
        with connection.transaction():
            connection.execute(gzip.decompress((BASELINE / "data.sql.gz").read_bytes()))
        connection.execute("call flows.follow()")


def dump(url: str) -> list[str]:
    """Return the lines of the schema, with its objects sorted by name.

    They are sorted because pg_dump writes a hypertable after its chunks if it has any. Numbers of
    materialized hypertables are replaced, because they depend on the order of creation.
    """
    schemas = ("-n", "flows", "-n", "api", "-n", "gateway")
    done = subprocess.run(
        [str(binaries() / "pg_dump"), "--schema-only", *schemas, url],
        capture_output=True,
        text=True,
        check=True,
    )
    text = re.sub(r"(_materialized_hypertable_|cagg_watermark\()\d+", r"\1N", done.stdout)
    text = re.sub(r"^\\(un)?restrict .*$", "", text, flags=re.MULTILINE)
    objects = sorted(re.split(r"^--\n(?=-- Name: )", text, flags=re.MULTILINE))
    return [line for entry in objects for line in entry.splitlines()]


def rows(url: str) -> dict[str, tuple[int, str]]:
    """Return number and checksum of the rows of each table and aggregate."""
    with psycopg.connect(url) as connection:
        names = [row[0] for row in connection.execute(TABLES)]
        names += [f"flows.circuit_interval_{level}" for level in AGGREGATES]
        found: dict[str, tuple[int, str]] = {}
        for name in names:
            # Columns that came later than 0.1, and the owner that a row has from its parents.
            later = LATER_COLUMNS if name in OWN_ESCO else {*LATER_COLUMNS, "esco"}
            if name in ("flows.service_head_meter", "flows.properties_service_head"):
                later = {*later, "start_time"}
            row = f"to_jsonb(t) - '{{{','.join(later)}}}'::text[]"
            query = (
                f"select count(*), md5(string_agg(r, '' order by r))"
                f" from (select ({row})::text as r from {name} as t) as rows"
            )
            [(count, checksum)] = connection.execute(query.encode()).fetchall()
            found[name] = count, checksum
    return found


def ask(url: str, query: str, *values: object) -> list[tuple[Any, ...]]:
    """Return the rows of a query, run in a new connection."""
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query.encode(), values).fetchall()


def engine_state(url: str, engine: str) -> list[list[tuple[Any, ...]]]:
    """Return the engine's settings of the series that are not part of the schema."""
    return [sorted(ask(url, query), key=str) for query in ENGINE_STATE[engine]]


def test_an_upgraded_database_equals_a_fresh_one(scratch: Callable[[], str], engine: str) -> None:
    old, fresh = scratch(), scratch()
    make_baseline(old, engine)
    if engine == "timescale":
        # Triggers must also be created again on chunks in the columnstore.
        for series in ("register_interval_hh", "meter_csq"):
            ask(old, "select public.compress_chunk(c) from public.show_chunks(%s) as c",
                f"flows.{series}")  # fmt: skip
    before = rows(old)
    # Secrets get a digest at their next use: until then they are what they were, without one.
    del before["gateway.client_secret"]
    secrets = ask(old, SECRETS.format(digest="null"))
    assert before["flows.register_interval_hh"][0] > 3000
    assert before["flows.meter_csq"][0] > 0
    assert before["gateway.token"][0] == 3
    assert before["gateway.revoked_token"][0] == 2
    assert all(before[f"flows.circuit_interval_{level}"][0] for level in AGGREGATES)
    assert migrate(old) == migrate(fresh) == engine
    after = rows(old)  # of tables that came since, too
    # The names of events and metrics that every database has are added to those that were there.
    named = ("flows.meter_event_log_type", "flows.meter_metrics")
    assert [before.pop(name)[0] for name in named] == [3, 3]
    assert [after[name][0] for name in named] == [80, 3 + 15]
    assert ask(old, "select name from flows.meter_event_log_type where id <= 3 order by id") == [
        ("power failure",), ("cover opened",), ("credit exhausted",),
    ]  # fmt: skip
    assert {name: after[name] for name in before} == before
    both = "coalesce({0}import_kwh, 0) + coalesce({0}export_kwh, 0)"
    energy = f"select sum(kwh) > 0, sum(kwh) = sum({both})"
    assert ask(old, energy.format("") + " from flows.register_interval_hh") == [(True, True)]
    assert ask(old, energy.format("total_") + " from flows.circuit_interval_daily") == [
        (True, True)
    ]
    for table in ("circuits", "meter_registers", "register_interval_hh", "circuit_interval_daily"):
        assert ask(old, f"select count(*) from flows.{table} where esco is null") == [(0,)]
    assert dump(old) == dump(fresh)
    assert engine_state(old, engine) == engine_state(fresh, engine)
    versions = "select version, name, sha256, oldest_gateway from gateway.schema_migration"
    assert ask(old, versions) == ask(fresh, versions)
    assert ask(old, SECRETS.format(digest="digest")) == secrets != []
    # The aggregates still follow readings.
    (_, circuit) = ask(
        old,
        "insert into flows.register_interval_hh (register_id, timestamp, import_kwh)"
        " select m.register, '2026-10-31T12:00Z', 7 from flows.circuit_register as m"
        " order by m.register limit 1 returning register_id, (select circuit from"
        " flows.circuit_register where register = register_id)",
    )[0]
    _follow(old)
    assert ask(
        old,
        "select total_import_kwh from flows.circuit_interval_hh"
        " where circuit_id = %s and timestamp = '2026-10-31T12:00Z'",
        circuit,
    ) == [(7,)]


def test_a_signal_widens_under_a_gateway_that_reads_and_writes(
    scratch: Callable[[], str], sources: Path, engine: str
) -> None:
    """Between the migrations, and before sql/objects, all that shows the signal stays as it is."""
    widening = [file for file in migrations(engine) if "wide_signal" in file.name]
    # Later ones stay: sql/objects describes what they add.
    for path in sources.glob("migrations/**/*.sql"):
        if path.name in {file.name for file in widening}:
            path.unlink()
    url = scratch()
    migrate(url, folder=sources)
    expected: list[tuple[int | None]] = [(None,), *((n,) for n in range(1, 2001))]
    with psycopg.connect(url, autocommit=True) as connection:
        run = connection.execute
        # Of a later day.
        run("drop function api.newest_meter_csq, api.newest_own_meter_csq")
        run("drop owned by resident")
        before = dump(url)

        def signals(schema: str) -> list[tuple[Any, ...]]:
            return run(f"select csq from {schema}.meter_csq order by timestamp".encode()).fetchall()

        run("insert into flows.meter_registry (serial) values ('S')")
        run("insert into flows.meter_csq (meter_id, timestamp, csq)"
            " select id, '2026-01-01Z'::timestamptz + n * interval '1 hour', nullif(n, 0)"
            " from flows.meter_registry, generate_series(0, 2000) as n")  # fmt: skip
        if engine == "timescale":
            run("select public.compress_chunk(c) from public.show_chunks('flows.meter_csq') as c")
        for number, file in enumerate(widening):
            if file.commits:
                run("set role flows_owner")
            run(file.text.encode())
            run("reset role")
            run("insert into gateway.schema_migration"
                " (version, name, sha256, oldest_gateway, program) values (%s, %s, %s, 0, '')",
                (file.version, file.name, file.sha256))  # fmt: skip
            at = f"2026-{6 + number:02}-15Z"
            run("insert into api.meter_csq (meter_id, timestamp, csq)"
                " select id, %s, 5 from flows.meter_registry", (at,))  # fmt: skip
            run("update api.meter_csq set csq = 6 where timestamp = %s", (at,))
            expected.append((6,))
            assert signals("api") == expected
        changed = set(before) ^ set(dump(url))
        # Comments wait for sql/objects.
        expected_line = re.compile(
            r" +(csq (smallint|integer)|narrow_csq smallint|esco uuid),?"
            r"|COMMENT ON .*|-- Name: .*; Type: COMMENT; .*"
        )
        assert changed
        assert [line for line in changed if not expected_line.fullmatch(line)] == []
        assert migrate(url) == engine
        run("update flows.meter_shadows set csq = 70000")
        run("update flows.meter_csq set csq = -70000 where timestamp = '2026-01-01Z'")
        expected = [(-70_000,), *expected[1:], (70_000,)]
        assert signals("flows") == expected


def _follow(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("call flows.follow()")


# One mapping is without end, and two that overlap are within it.
OVERLAPS = """
    with mapped as (
        select
            m.circuit, m.register, m.start_time, date_trunc('day', min(timestamp), 'UTC') as day
        from flows.circuit_register as m
        join flows.register_interval_hh as r on r.register_id = m.register
        where m.end_time is null and m.circuit in (
            select circuit from flows.circuit_register group by 1 having count(*) = 1
        )
        group by 1, 2, 3 order by sum(r.import_kwh) desc limit 1
    ), again as (
        insert into flows.circuit_register (circuit, register, start_time, end_time)
        select m.circuit, m.register, day + first * interval '1 day', day + stop * interval '1 day'
        from mapped as m cross join (values (1, 3), (2, 5)) as t (first, stop)
    )
    select circuit, register, start_time, day from mapped
"""
DAY_KWH = """
    select
        (select sum(r.import_kwh) from flows.register_interval_hh as r
        where r.register_id = %(register)s and timestamp >= %(first)s and timestamp < %(last)s),
        (select sum(h.total_import_kwh) from flows.circuit_interval_hh as h
        where h.circuit_id = %(circuit)s and timestamp >= %(first)s and timestamp < %(last)s),
        (select d.total_import_kwh from flows.circuit_interval_daily as d
        where d.circuit_id = %(circuit)s and day = %(first)s)
"""


# The lock that a change of the mapping holds until it is committed.
LOCK_MAPPING = """
    select pg_advisory_xact_lock(hashtext('flows.circuit_register'), hashtext(meter.esco::text))
    from flows.meter_registers as register
    join flows.meter_registry as meter on meter.id = register.meter_id
    where register.register_id = %s
"""


def test_mappings_that_overlap_are_mended_and_named(
    scratch: Callable[[], str], engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = scratch()
    make_baseline(old, engine)
    with psycopg.connect(old, autocommit=True) as admin:
        [(circuit, register, start, first_day)] = admin.execute(OVERLAPS).fetchall()
        days = [first_day + timedelta(days=number) for number in range(6)]

        def multiples() -> list[set[Decimal]]:
            """Return how many times each day's energy is in the sums of half-hours and the day."""
            _follow(old)
            named = {"circuit": circuit, "register": register}
            return [
                {summed / raw for summed in rest}
                for first, last in pairwise(days)
                for raw, *rest in admin.execute(DAY_KWH, named | {"first": first, "last": last})
            ]

        assert multiples() == [{1}, {2}, {3}, {2}, {2}]
        said: list[str] = []
        with psycopg.connect(old) as other, monkeypatch.context() as patch:
            other.execute(LOCK_MAPPING, (register,))
            patch.setattr("app.db.migrate.time.sleep", lambda _: other.rollback())
            migrate(old, progress=said.append)
            assert other.info.transaction_status == TransactionStatus.IDLE
        assert said[-1] == "mended 3 mappings that overlapped: `flows doctor` names them"
        mapped = (
            "select start_time, end_time from flows.circuit_register"
            " where (circuit, register) = (%s, %s) order by 1"
        )
        assert admin.execute(mapped, (circuit, register)).fetchall() == [
            (start, days[1]), (days[1], days[2]), (days[2], None),
        ]  # fmt: skip
        assert multiples() == 5 * [{1}]
        said.clear()
        migrate(old, progress=said.append)
        assert said == []
        found = [one for one in _examined(old) if "mappings" in one.check]
        assert [(one.check, one.level) for one in found] == 3 * [("mended mappings", "warning")]
        for one in found:
            assert f"the register {register} to the circuit {circuit}" in one.text
            mend, dismiss = one.mend.split(": ")
            assert mend.startswith("set its end_time if that is wrong")
            admin.execute(dismiss.encode())
        assert not [one for one in _examined(old) if "mappings" in one.check]


def _examined(url: str) -> list[Finding]:
    with psycopg.connect(url, row_factory=dict_row) as admin:
        return list(examine_schema(admin))


def test_a_database_that_lacks_a_part_of_the_baseline_is_refused(
    scratch: Callable[[], str], engine: str
) -> None:
    old = scratch()
    make_baseline(old, engine)
    with psycopg.connect(old) as connection:
        connection.execute("alter table gateway.audit drop column detail")
        connection.execute("alter table flows.circuits drop constraint circuits_type_check")
    with pytest.raises(MigrationError) as refused:
        migrate(old)
    lines = str(refused.value).splitlines()
    assert "lacks 2 of its parts" in lines[0]
    assert "column gateway.audit.detail: text" in lines[1]
    assert "constraint circuits_type_check on flows.circuits" in lines[2]
    assert ask(old, "select to_regclass('gateway.schema_migration')") == [(None,)]
    assert ask(old, "select max(version) from public.schema_migrations") == [("095",)]


def test_a_schema_of_somebody_else_is_refused(scratch: Callable[[], str]) -> None:
    url = scratch()
    with psycopg.connect(url) as connection:
        connection.execute("create schema flows")
    with pytest.raises(MigrationError, match="was not created by"):
        migrate(url)


def test_an_interrupted_upgrade_continues(migrated: str, sources: Path) -> None:
    url = migrated
    (sources / "migrations" / f"{NEXT}_first.sql").write_text("create table flows.first ();")
    second = sources / "migrations" / f"{LATER}_second.sql"
    second.write_text("create table flows.second (); select pg_sleep(600);")
    code = (
        "import sys; from pathlib import Path; from app.db.migrate import migrate;"
        "migrate(sys.argv[1], folder=Path(sys.argv[2]))"
    )
    killed = subprocess.Popen([sys.executable, "-c", code, url, str(sources)])
    try:
        sleeping = "select from pg_stat_activity where datname = current_database()"
        wait_until(lambda: ask(url, sleeping + " and wait_event = 'PgSleep'"))
    finally:
        killed.kill()
        killed.wait()
    assert ask(url, "select max(version) from gateway.schema_migration") == [(PROGRAM + 1,)]
    assert ask(url, "select to_regclass('flows.second')") == [(None,)]
    second.write_text("create table flows.second ();")
    steps: list[str] = []
    # The server notices that the process was killed, and releases its lock.
    migrate(url, folder=sources, progress=steps.append)
    assert f"applying {NEXT}_first.sql" not in steps
    assert f"applying {LATER}_second.sql" in steps
    assert steps[-1] == "applying sql/objects"
    assert ask(url, "select max(version) from gateway.schema_migration") == [(PROGRAM + 2,)]


def test_a_migration_that_fails_says_where_and_leaves_nothing(migrated: str, sources: Path) -> None:
    url = migrated
    bad = sources / "migrations" / f"{NEXT}_bad.sql"
    bad.write_text("create table flows.half ();\n\nselect nothing;\n")
    with pytest.raises(MigrationError, match=rf"{NEXT}_bad.sql, line 3: column .nothing. does not"):
        migrate(url, folder=sources)
    assert ask(url, "select to_regclass('flows.half')") == [(None,)]


def test_two_at_once_do_not_collide(scratch: Callable[[], str]) -> None:
    url = scratch()
    steps: list[str] = []
    with ThreadPoolExecutor(3) as pool:
        engines = pool.map(lambda _: migrate(url, progress=steps.append), range(3))
        assert len(set(engines)) == 1
    assert steps.count("applying 0001_baseline.sql") == 1
    assert steps.count("applying sql/objects") == 1
    assert ask(url, "select count(*) from gateway.schema_migration") == [(PROGRAM,)]


def test_an_edited_file_is_refused_by_name(migrated: str, sources: Path) -> None:
    url = migrated
    file = sources / "migrations" / "0001_baseline.sql"
    file.write_text(file.read_text() + "-- one more line\n")
    with pytest.raises(MigrationError, match=r"sql/migrations/0001_baseline\.sql was edited"):
        migrate(url, folder=sources)
    migrate(url)


def test_a_file_that_comes_too_late_is_refused(migrated: str, sources: Path) -> None:
    url = migrated
    folder = sources / "migrations"
    (folder / f"{LATER}_later.sql").write_text("select;")
    migrate(url, folder=sources)
    (folder / f"{NEXT}_between.sql").write_text("select;")
    with pytest.raises(
        MigrationError, match=rf"{NEXT}_between\.sql comes before {LATER}_later\.sql"
    ):
        migrate(url, folder=sources)


def test_a_database_newer_than_the_program_is_refused(migrated: str, sources: Path) -> None:
    url = migrated
    (sources / "migrations" / f"{NEXT}_next.sql").write_text("select;")
    migrate(url, folder=sources)
    with pytest.raises(MigrationError, match=f"version {PROGRAM + 1}, this program has {PROGRAM}"):
        migrate(url)


def test_an_older_program_does_not_bring_older_objects_back(migrated: str) -> None:
    record = "update gateway.schema_objects set (program, sha256) = (%s, %s) returning program"
    [(program, checked)] = ask(migrated, "select program, sha256 from gateway.schema_objects")
    ask(migrated, record, "99.0", "")
    try:
        with pytest.raises(MigrationError, match=r"it was migrated by Flows 99\.0"):
            migrate(migrated)
    finally:
        ask(migrated, record, program, checked)


def test_an_object_that_leaves_its_file_leaves_the_database(migrated: str, sources: Path) -> None:
    url = migrated
    before = dump(url)
    extra = sources / "objects" / "099_extra.sql"
    extra.write_text("""
        set local role flows_owner;
        create or replace function flows.extra(number integer) returns integer
        language sql return number;
        create view api.extra as select flows.extra(id) as id from flows.meter_event_log_type;
        create policy "extra" on flows.circuits using (flows.extra(1) = 1);
        create trigger extra after insert on flows.circuits
        for each statement execute function flows.note_configuration();
        comment on column flows.circuits.created_at is 'Extra.';
        grant insert on flows.regions to flows;
        grant update (name) on flows.regions to flows;
        grant execute on function flows.engine() to flows;
        reset role;
    """)
    migrate(url, folder=sources)
    assert len(dump(url)) > len(before)
    # A function with another return type cannot be replaced, so it is dropped and created.
    changed = extra.read_text().replace("returns integer", "returns bigint")
    extra.write_text(changed)
    migrate(url, folder=sources)
    assert ask(url, "select pg_get_function_result('flows.extra'::regproc)") == [("bigint",)]
    extra.unlink()
    migrate(url, folder=sources)
    assert dump(url) == before


def test_a_migration_drops_what_a_view_of_the_version_before_reads(
    migrated: str, sources: Path
) -> None:
    url = migrated
    before = dump(url)
    made = sources / "migrations" / f"{NEXT}_made.sql"
    made.write_text("set local role flows_owner; create type flows.extra as (one int, two int);")
    view = sources / "objects" / "099_extra.sql"
    view.write_text("""
        set local role flows_owner;
        create view api.extra as select (row(1, 2)::flows.extra).two;
        reset role;
    """)
    migrate(url, folder=sources)
    changed = sources / "migrations" / f"{LATER}_changed.sql"
    changed.write_text("drop type flows.extra; select nothing;")
    view.unlink()
    with pytest.raises(MigrationError, match=r"column .nothing. does not"):
        migrate(url, folder=sources)
    assert ask(url, "select two from api.extra") == [(2,)]
    changed.write_text("drop type flows.extra;")
    migrate(url, folder=sources)
    assert dump(url) == before


def test_an_upgrade_waits_for_a_reader_and_nobody_waits_for_it(
    migrated: str, sources: Path
) -> None:
    url = migrated
    (sources / "objects" / "099_extra.sql").write_text("select;")
    done = threading.Event()

    def upgrade() -> None:
        migrate(url, folder=sources)
        done.set()

    with psycopg.connect(url) as reader, ThreadPoolExecutor(1) as pool:
        reader.execute("select count(*) from api.meter_csq, api.meter_registry")
        upgraded = pool.submit(upgrade)
        waiting = "select from pg_stat_activity where datname = current_database()"
        wait_until(lambda: ask(url, waiting + " and wait_event_type = 'Lock'"))
        # Later queries wait less long than the reader takes.
        for _ in range(3):
            with psycopg.connect(url, options="-c statement_timeout=20s") as other:
                other.execute("select count(*) from api.meter_csq, api.meter_registry")
        assert not done.is_set()
        reader.rollback()
        upgraded.result(timeout=60)
    migrate(url)


def test_an_upgrade_goes_on_when_another_session_changed_the_same_row_of_the_catalogue(
    migrated: str, sources: Path
) -> None:
    """PostgreSQL has an internal error for it, “tuple concurrently updated”."""
    url = migrated
    grant = "grant select on flows.circuits to flows_gateway"
    (sources / "migrations" / f"{NEXT}_grant.sql").write_text(grant)
    with psycopg.connect(url) as other, ThreadPoolExecutor(1) as pool:
        other.execute(grant.encode())
        upgraded = pool.submit(migrate, url, folder=sources)
        waiting = "select from pg_locks where not granted and locktype = 'transactionid'"
        wait_until(lambda: ask(url, waiting))
        other.commit()
        assert upgraded.result(timeout=60)
    privilege = "select has_table_privilege('flows_gateway', 'flows.circuits', 'select')"
    assert ask(url, "select max(version) from gateway.schema_migration") == [(PROGRAM + 1,)]
    assert ask(url, privilege) == [(False,)]  # as sql/objects say


def test_the_tests_read_the_list_of_series_that_the_database_has(
    migrated: str,
) -> None:
    url = migrated
    assert dict(ask(url, "select name, key from flows.series()")) == KEYS


def test_a_version_is_the_same_on_both_engines() -> None:
    numbers = {
        engine: [file.version for file in migrations(engine)]
        for engine in ("postgres", "timescale")
    }
    expected = list(range(1, program_version() + 1))
    assert numbers == {"postgres": expected, "timescale": expected}


# ── a gateway beside a database of another version ──


PATHS = (
    "/rest/v1/meter_registry?select=serial&limit=1",
    "/rest/v1/meters_low_balance?limit=1",
    "/v1/energy?group_by=esco&granularity=P1D"
    "&period_from=2026-11-01T00:00Z&period_to=2026-11-08T00:00Z",
)


@contextmanager
def requests_running(stack: Stack) -> Iterator[list[tuple[str, int]]]:
    """Send requests to gateway and PostgREST continuously; yield the responses so far."""
    answers: list[tuple[str, int]] = []
    stop = threading.Event()

    def run() -> None:
        with stack.client("wlce") as client:
            while not stop.is_set():
                answers.extend((path, client.get(path).status_code) for path in PATHS)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run)
        try:
            yield answers
        finally:
            stop.set()
            running.result(timeout=60)


@pytest.mark.stack
def test_a_gateway_one_version_older_serves_until_a_migration_ends_it(sources: Path) -> None:
    folder = sources / "migrations"
    with running_stack() as own:
        url = own.contract["database_url"]
        # Expand: add a column, and an object that shows it.
        (folder / f"{NEXT}_expand.sql").write_text(
            "alter table flows.circuits add column note text;"
        )
        (sources / "objects" / "083_notes.sql").write_text(
            "set local role flows_owner;"
            "create view api.circuit_notes with (security_invoker = true) as"
            " select id, note from flows.circuits;"
            "grant select on api.circuit_notes to flows, public_backend;"
            "reset role;"
        )
        with requests_running(own) as answers:
            wait_until(lambda: len(answers) > 5)
            migrate(url, folder=sources)
            count = len(answers)
            wait_until(lambda: len(answers) > count + 30)
        assert {status for _, status in answers} == {200}, answers
        with own.client("wlce") as client:
            ready = client.get("/ready")
            assert ready.status_code == 200
            component = ready.json()["components"]["schema"]
            assert component == {
                "status": "ok", "detail": None, "database": PROGRAM + 1, "gateway": PROGRAM
            }  # fmt: skip
            wait_until(lambda: client.get("/rest/v1/circuit_notes?limit=1").status_code == 200)
        status = json.loads(flows(own, "db", "status", "--json").stdout)
        assert status["schema"] == {"database": PROGRAM + 1, "program": PROGRAM}
        assert (
            f"schema version {PROGRAM + 1} in the database, {PROGRAM} in this program"
            in " ".join(flows(own, "db", "status").stdout.split())
        )
        # Contract: remove what the old gateway was written for.
        (folder / f"{LATER}_contract.sql").write_text(
            f"-- oldest-gateway: {PROGRAM + 1}\nselect;\n"
        )
        migrate(url, folder=sources)
        with own.client(None) as client:
            ready = client.get("/ready")
            assert ready.status_code == 503
            component = ready.json()["components"]["schema"]
            assert component["status"] == "down"
            assert (component["database"], component["gateway"]) == (PROGRAM + 2, PROGRAM)
            told = f"serves gateways from {PROGRAM + 1} on, but this one has {PROGRAM}"
            assert told in component["detail"]
        refused = serve(own.home, gateway_url(own, url))
        assert refused.returncode == 1
        assert told in " ".join(refused.stderr.split())
        done = flows(own, "db", "migrate", check=False)
        assert done.returncode == 1
        assert "the database is newer than this program" in " ".join(done.stderr.split())


def test_a_gateway_does_not_start_on_an_older_database(
    stack: Stack, scratch: Callable[[], str], engine: str, sources: Path
) -> None:
    old = scratch()
    make_baseline(old, engine)
    refused = serve(stack.home, gateway_url(stack, old))
    assert refused.returncode == 1
    assert refused.stderr.count("error:") == 1
    assert "run `flows db migrate`" in refused.stderr
    assert "Traceback" not in refused.stderr
    migrate(old)
    (sources / "migrations" / f"{NEXT}_next.sql").write_text("select;")
    code = (
        "import sys; from pathlib import Path; from app.db.schema import *;"
        "print(mismatch(int(sys.argv[2]), 0, program_version(Path(sys.argv[1]))))"
    )
    asked = [sys.executable, "-c", code, str(sources), str(PROGRAM)]
    said = subprocess.check_output(asked, text=True)
    assert (
        f"has version {PROGRAM}, this gateway needs {PROGRAM + 1}: run `flows db migrate`" in said
    )


def gateway_url(stack: Stack, database_url: str) -> str:
    """Return the URL of a database on the stack's server with the gateway's login."""
    password = json.loads((stack.home / "passwords.json").read_text())["flows_gateway"]
    return re.sub(r"//[^@]*@", f"//flows_gateway:{password}@", database_url)


def serve(home: Path, database_url: str) -> subprocess.CompletedProcess[str]:
    """Run `flows serve`, which is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "app.cli", "serve"],
        env=os.environ
        | {"FLOWS_HOME": str(home), "FLOWS_DATABASE_URL": database_url, "FLOWS_PORT": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


# ── a new series: one file and one row ──

FREQUENCY = """
set local role flows_owner;
create table flows.meter_frequency (
    meter_id uuid not null references flows.meter_registry,
    esco uuid,
    "timestamp" timestamptz not null,
    frequency numeric check (frequency > 0 and frequency < 100),
    created_at timestamptz not null default now(),
    primary key (meter_id, "timestamp"),
    constraint the_time_is_between_2000_and_2100
    check ("timestamp" >= '2000-01-01 00:00Z' and "timestamp" < '2100-01-01 00:00Z')
);
create index on flows.meter_frequency (esco, "timestamp" desc);
reset role;
"""
ROW = """
        (
            'meter_frequency', 'meter_id', 'timestamp', '30 days', '"timestamp" desc', '1 year', '7 days',
            'Frequency of the supply at meters.',
            '{"frequency": "Frequency, Hz."}'
        ),
"""  # noqa: E501  (as it stands in the list)


def test_adding_a_series_is_one_file_and_one_row(
    migrated: str, scratch: Callable[[], str], sources: Path, engine: str
) -> None:
    url = migrated
    (sources / "migrations" / f"{NEXT}_meter_frequency.sql").write_text(FREQUENCY)
    series = sources / "objects" / "045_series.sql"
    anchor = "from (values\n"
    assert series.read_text().count(anchor) == 1
    series.write_text(series.read_text().replace(anchor, anchor + ROW.strip("\n") + "\n"))
    migrate(url, folder=sources)

    with psycopg.connect(url) as connection:
        assert "meter_frequency" in copied_tables(connection)
    kept = "select keep::text, columnstore_after::text from flows.retention where series = %s"
    assert ask(url, kept, "meter_frequency") == [("1 year", "7 days")]
    granted = (
        "select array_agg(privilege order by privilege) from unnest(array["
        "'select', 'insert', 'update', 'delete']) as privilege where has_table_privilege(%s, %s,"
        " privilege)"
    )
    view, table = "api.meter_frequency", "flows.meter_frequency"
    every = ["delete", "insert", "select", "update"]
    assert ask(url, granted, "flows", view) == [(every,)]
    assert ask(url, granted, "public_backend", view) == [(["select"],)]
    assert ask(url, granted, "flows", table) == [(None,)]
    undescribed = (
        "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0"
        " and col_description(attrelid, attnum) is null"
    )
    assert ask(url, undescribed, view) == ask(url, undescribed, table) == []
    assert "limit" in str(ask(url, "select obj_description(%s::regclass, 'pg_class')", view))
    assert ask(url, "select reloptions from pg_class where oid = %s::regclass", view) == [
        (["security_barrier=true", "check_option=cascaded"],)
    ]
    parts = (
        "select count(*) from pg_inherits where inhparent = 'flows.meter_frequency'::regclass"
        if engine == "postgres"
        else "select count(*) from timescaledb_information.jobs"
        " where hypertable_name = 'meter_frequency'"
    )
    assert ask(url, parts)[0][0] >= (25 if engine == "postgres" else 2)

    fresh = scratch()
    migrate(fresh, folder=sources)
    assert dump(url) == dump(fresh)


def test_a_table_with_rows_is_not_made_a_series_over_them(
    migrated: str, sources: Path, engine: str
) -> None:
    url = migrated
    filled = FREQUENCY.replace("reset role;", """
        insert into flows.regions (code, name) values ('x', 'X');
        insert into flows.escos (code, name) values ('x', 'X');
        insert into flows.meter_registry (serial, name, esco) select 'X', 'X', id from flows.escos;
        insert into flows.meter_frequency
        select id, esco, '2026-01-01Z', 50 from flows.meter_registry;
        reset role;""")  # fmt: skip
    (sources / "migrations" / f"{NEXT}_meter_frequency.sql").write_text(filled)
    series = sources / "objects" / "045_series.sql"
    series.write_text(series.read_text().replace("from (values\n", "from (values\n" + ROW))
    with pytest.raises(MigrationError, match=r"050_\w+\.sql"):
        migrate(url, folder=sources)
    assert ask(url, "select frequency from flows.meter_frequency") == [(50,)]
