"""`flows doctor` finds what was broken by hand, and names the mend."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from pydantic import SecretStr

from app.backup.folder import Backup, BackupFolder
from app.db.migrate import migrate
from app.doctor import database, deployment
from app.doctor.database import examine_schema
from app.doctor.finding import Finding
from app.settings import (
    BackupSettings,
    DatabaseSettings,
    PostgrestSettings,
    ReplicaSettings,
    Settings,
)
from tests.conftest import Stack, flows

Admin = psycopg.Connection[dict[str, Any]]


@pytest.fixture(scope="module", autouse=True)
def _maintained(stack: Stack) -> None:
    """Do what jobs do daily and each minute, as other tests wrote old and new rows."""
    flows(stack, "db", "prune")
    flows(stack, "db", "refresh")


@pytest.fixture
def broken(stack: Stack) -> Iterator[Admin]:
    """An administrator's connection whose changes are rolled back."""
    with psycopg.connect(stack.contract["database_url"], row_factory=dict_row) as admin:
        yield admin
        admin.rollback()


def found(admin: Admin, check: str) -> list[Finding]:
    """Return the findings of one check."""
    return [finding for finding in examine_schema(admin) if finding.check == check]


def test_a_deployment_that_is_well_has_no_fault(stack: Stack, broken: Admin) -> None:
    assert [one for one in examine_schema(broken) if one.level == "fault"] == []
    done = flows(stack, "doctor", "--json", check=False)
    told = json.loads(done.stdout)
    faults = [one for one in told["findings"] if one["level"] == "fault" and one["check"] != "disk"]
    assert faults == []
    assert told["ok"] == (done.returncode == 0)


@pytest.mark.parametrize(
    ("check", "statement", "text", "mend"),
    [
        ("policy", 'drop policy "an ESCO has its rows" on flows.meter_registry',
         '"an ESCO has its rows" on flows.meter_registry is missing', "flows db migrate"),
        ("policy", "create policy everybody on flows.circuits using (true)",
         "everybody", "flows db migrate"),
        ("policy", 'alter policy "an ESCO has its rows" on flows.circuits using (true)',
         "is changed", "flows db migrate"),
        ("row security", "alter table flows.circuits disable row level security",
         "flows.circuits is changed",
         "alter table flows.circuits enable row level security, force row level security"),
        ("row security", "alter table flows.circuits no force row level security",
         "flows.circuits is changed",
         "alter table flows.circuits enable row level security, force row level security"),
        ("index", "drop index flows.circuit_register_register_start_time_idx",
         "flows.circuit_register_register_start_time_idx is missing",
         "CREATE INDEX circuit_register_register_start_time_idx ON flows.circuit_register"),
        ("grant", "grant select on flows.register_interval_hh to public_backend",
         "on flows.register_interval_hh to public_backend was added by hand", "flows db migrate"),
        ("grant", "revoke select on api.circuits from flows", "on api.circuits to flows is",
         "flows db migrate"),
        ("trigger", "alter table gateway.audit disable trigger entries_stay",
         "entries_stay on gateway.audit is changed", "flows db migrate"),
        ("function", "create or replace function flows.current_esco() returns uuid language sql"
         " stable parallel safe return null::uuid", "flows.current_esco() is changed",
         "flows db migrate"),
        ("constraint", "alter table flows.circuit_register drop constraint"
         " circuit_register_register_fkey", "is missing", "alter table flows.circuit_register add"),
        ("roles", "alter role public_backend bypassrls", "public_backend bypasses",
         "alter role public_backend nosuperuser nobypassrls"),
        ("logins", "alter role flows login", "flows logs in to SQL as flows",
         "alter role flows nologin"),
        ("logins", "create role partner login in role public_backend",
         "partner logs in to SQL as public_backend", "revoke public_backend from partner"),
        ("rights", "grant temporary on database flows to public", "may make temporary tables",
         "revoke temporary on database flows from public"),
        ("rights", "grant execute on function lo_create(oid) to public", "large objects",
         "flows db migrate, as a superuser"),
        ("rights", "alter role authenticator reset log_min_messages",
         "logs errors of authenticator",
         "alter role authenticator set log_min_messages = 'log'"),
        ("signing keys", "update gateway.signing_key set verifies_until = now()", "no key",
         "flows db migrate"),
        ("key ages", "update gateway.signing_key set created_at = now() - interval '401 days'",
         "401 days old", "flows keys rotate"),
        ("aggregates", "insert into flows.change (kind, period, registers, circuits, changed_at)"
         " values ('mapping', '[2020-01-01Z, 2020-01-02Z)', '{}', '{}', now() - interval '1 hour')",
         "lack 1 changes", "flows db refresh"),
        ("mappings", "set local session_replication_role = replica;"
         "insert into flows.circuit_register (circuit, register, start_time)"
         " select circuit, register, start_time + interval '1 hour' from flows.circuit_register"
         " order by register limit 1", "twice from", "set the end_time of the mapping"),
        ("missing indexes", "alter table flows.circuits add column installer uuid"
         " references flows.escos", "no index begins with installer of flows.circuits",
         "create index concurrently on flows.circuits (installer)"),
        ("registers", "delete from flows.circuit_register where register = (select register from"
         " flows.circuit_register where end_time is null order by register limit 1)",
         "belongs to no circuit", "map it in circuit_register"),
    ],
)  # fmt: skip
def test_what_was_broken_by_hand_is_found(
    broken: Admin, check: str, statement: str, text: str, mend: str
) -> None:
    before = found(broken, check)
    broken.execute(statement.encode())
    new = [finding for finding in found(broken, check) if finding not in before]
    assert new
    assert any(text in finding.text for finding in new), new
    assert all(mend in finding.mend for finding in new), new


def test_a_partition_that_is_missing_ahead_is_found(broken: Admin, engine: str) -> None:
    if engine != "postgres":
        pytest.skip("TimescaleDB makes chunks as they are needed")
    year = datetime.now(UTC).year + 1
    broken.execute(f"drop table flows.meter_csq_{year}".encode())
    (finding,) = found(broken, "partitions")
    assert finding.text == f"flows.meter_csq has no partition for {year}"
    assert "flows db maintain" in finding.mend


def test_rows_beyond_their_retention_are_found(broken: Admin, engine: str) -> None:
    assert found(broken, "retention") == []
    if engine == "postgres":
        broken.execute("update flows.retention set keep = null where series = 'meter_event_log'")
        broken.execute("update flows.retention set keep = '1 year' where series = 'meter_csq'")
        year = datetime.now(UTC).year - 20
        broken.execute("set local session_replication_role = replica")
        broken.execute("select flows.add_partition('meter_csq', %s)", (year,))
        broken.execute(
            f"insert into flows.meter_csq_{year} (meter_id, esco, timestamp, csq)"
            f" select id, esco, '{year}-05-01Z', 1 from flows.meter_registry".encode()
        )
    else:
        broken.execute("update flows.retention set keep = '1 day' where series = 'meter_csq'")
    told = found(broken, "retention")
    assert told
    assert all("flows.meter_csq has rows from" in one.text for one in told)
    if engine == "postgres":
        # Rows that were rolled back leave their pages.
        broken.rollback()
        broken.execute(f"truncate flows.meter_csq_{year}".encode())
        broken.commit()


def test_tables_that_are_read_whole_again_and_again_are_found(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = database.WARNINGS["missing indexes"].replace("> 100000", "> 1000")
    monkeypatch.setitem(database.WARNINGS, "missing indexes", check)
    url = stack.contract["database_url"]
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as admin:
        admin.execute("create table gateway.unindexed as select n from generate_series(1, 2000)"
                      " as n")  # fmt: skip
        try:
            for number in range(102):
                admin.execute("select from gateway.unindexed where n = %s", (number,))
            admin.execute("select pg_stat_force_next_flush()")
            (one,) = [one for one in found(admin, "missing indexes") if "unindexed" in one.text]
            assert "2000 rows each time" in one.text
            assert "create index concurrently" in one.mend
        finally:
            admin.execute("drop table gateway.unindexed")


@pytest.mark.parametrize("days", [0, 30])
def test_a_large_index_that_no_query_uses_is_found(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    check = database.WARNINGS["unused indexes"].replace("> 100 * 2^20", "> 2^14")
    check = check.replace("'30 days'", f"'{days} days'")
    monkeypatch.setitem(database.WARNINGS, "unused indexes", check)
    url = stack.contract["database_url"]
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as admin:
        admin.execute("create table gateway.idle as select n from generate_series(1, 2000) as n")
        try:
            for name in ("used", "unused"):
                admin.execute(f"create index {name} on gateway.idle (n)".encode())
                if name == "used":
                    admin.execute("set enable_seqscan = off")
                    admin.execute("select from gateway.idle where n = 7")
            admin.execute("select pg_stat_force_next_flush()")
            told = [one.text for one in found(admin, "unused indexes")]
        finally:
            admin.execute("drop table gateway.idle")
    # Statistics that began today say nothing of a month.
    assert bool([text for text in told if "index gateway.unused (" in text]) is (days == 0)
    assert not [text for text in told if "index gateway.used (" in text]


def test_old_statistics_are_found(stack: Stack) -> None:
    url = stack.contract["database_url"]
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as admin:
        admin.execute("create table gateway.unanalyzed with (autovacuum_enabled = off) as"
                      " select n from generate_series(1, 20000) as n")  # fmt: skip
        try:
            admin.execute("select pg_stat_force_next_flush()")
            told = [one for one in found(admin, "statistics") if "unanalyzed" in one.text]
            assert [one.mend for one in told] == ["flows db analyze"]
        finally:
            admin.execute("drop table gateway.unanalyzed")


def test_a_clock_that_is_off_is_found(broken: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) - timedelta(hours=1)

    monkeypatch.setattr(database, "datetime", Late)
    (finding,) = found(broken, "clocks")
    assert "the database's clock is +3600 s" in finding.text


def test_migrate_mends_what_it_made(stack: Stack, broken: Admin) -> None:
    broken.execute('drop policy "an ESCO has its rows" on flows.meter_registry')
    broken.execute("grant select on flows.change to public_backend")
    broken.commit()
    lines: list[str] = []
    migrate(stack.contract["database_url"], progress=lines.append)
    assert 'policy "an ESCO has its rows" on flows.meter_registry: missing' in lines
    assert "grant on flows.change to public_backend: added" in lines
    assert [one for one in examine_schema(broken) if one.level == "fault"] == []
    broken.rollback()
    again: list[str] = []
    migrate(stack.contract["database_url"], progress=again.append)
    assert again == []


def test_more_connections_than_the_server_allows_are_found(stack: Stack) -> None:
    url = stack.contract["database_url"]
    settings = Settings(database=DatabaseSettings(pool_max=90))
    assert list(deployment.examine_pools(url, settings, gateways=1)) == []
    (finding,) = deployment.examine_pools(url, settings, gateways=2)
    assert "to the server, max_connections = 200 leaves 197" in finding.text
    assert "FLOWS_DATABASE_POOL_MAX" in finding.mend


def test_connections_to_a_replica_are_counted_there(stack: Stack) -> None:
    url = stack.contract["database_url"]
    replica = ReplicaSettings(
        database_url=SecretStr(url), postgrest_url="http://rest-1:3000,http://rest-2:3000"
    )
    settings = Settings(database=DatabaseSettings(pool_max=90), replica=replica)
    assert list(deployment.examine_pools(url, settings, gateways=1)) == []
    primary, standby = deployment.examine_pools(url, settings, gateways=2)
    assert "connections to the primary" in primary.text
    assert "may open 202 connections to the replica" in standby.text
    gone = replica.model_copy(update={"database_url": SecretStr("postgresql://127.0.0.1:1/flows")})
    settings = settings.model_copy(update={"replica": gone})
    (finding,) = deployment.examine_pools(url, settings, gateways=1)
    assert finding.text.startswith("the replica: ")


def test_old_backups_and_failed_drills_are_found(stack: Stack, tmp_path: Path) -> None:
    url, folder = stack.contract["database_url"], BackupFolder(tmp_path)
    settings = Settings(backup=BackupSettings(folder=tmp_path))
    now = datetime.now(UTC)
    old = now - timedelta(hours=27)
    (tmp_path / "base").mkdir()
    folder.add(Backup("20260101T000000Z", "full", None, old, old, "0" * 24, 1))
    folder.data("20260101T000000Z").mkdir(parents=True)
    folder.record_drill(["wlce has 3 meters and sees 0"])
    told = {(one.check, one.mend): one.text for one in deployment.examine_backups(url, settings)}
    assert "newest backup ended at" in told["backups", "flows backup create"]
    assert any("wlce has 3" in text for text in told.values())
    assert any(check == "archive" for check, _ in told)
    (unknown,) = deployment.examine_backups(url, Settings())
    assert "FLOWS_BACKUP_FOLDER" in unknown.mend


def test_secrets_disks_and_postgrest_are_looked_at(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings(home=tmp_path)
    (missing,) = deployment.examine_secrets(settings)
    assert "there is no signing key" in missing.text
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "signing-1.pem").write_text("x")
    (tmp_path / "keys" / "signing-1.pem").chmod(0o644)
    (tmp_path / ".env").write_text("FLOWS_DATABASE_URL=postgresql://flows_gateway:abc@db/flows\n")
    (tmp_path / ".env").chmod(0o644)
    told = [one.text for one in deployment.examine_secrets(settings)]
    assert "can be read by others" in told[0]
    assert "has passwords" in told[1]
    monkeypatch.setattr(deployment, "LEAST_FREE", 1.1)
    (full,) = deployment.examine_disks(settings)
    assert "GiB free" in full.text
    with_data = deployment.examine_data_disk(stack.contract["database_url"])
    assert [one.check for one in with_data] == ["disk"]
    monkeypatch.setattr(deployment, "OLDEST_POSTGREST", 99)
    urls = f"http://127.0.0.1:1,{stack.contract['postgrest_url']}"
    settings = Settings(postgrest=PostgrestSettings(url=urls))
    (old,) = deployment.examine_postgrests(settings)
    assert old.check == "versions"
    assert f"at {stack.contract['postgrest_url']} is too old" in old.text


def test_clients_without_tls_and_a_gateway_that_is_gone_are_found() -> None:
    settings = Settings(public_url="http://api.example.org")
    (finding,) = deployment.examine_tls(settings)
    assert "without TLS" in finding.text
    (gone,) = deployment.examine_services("http://127.0.0.1:1")
    assert "no gateway answers" in gone.text


def test_a_database_that_is_gone_is_one_fault() -> None:
    (finding,) = database.examine_database("postgresql://x@127.0.0.1:1/flows")
    assert (finding.check, finding.level) == ("database", "fault")
