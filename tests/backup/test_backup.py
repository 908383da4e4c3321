"""Backups are made, checked and restored to a point in time; damage is an error."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from app.backup.create import prune
from app.backup.folder import BackupError, BackupFolder
from app.backup.recover import recovered
from app.db.migrate import migrate
from app.embedded.process import StackError
from app.embedded.programs import has_timescale
from tests.commands import run_command
from tests.conftest import Stack, running_stack, wait_until

Admin = psycopg.Connection[Any]

# State that recovery must restore: rows and sums, then policies and grants.
STATE = (
    "select count(*), sum(import_kwh), sum(export_kwh) from flows.register_interval_hh",
    "select count(*), sum(total_import_kwh) from flows.circuit_interval_hh",
    "select count(*), sum(total_import_kwh) from flows.circuit_interval_daily",
    "select count(*), sum(total_import_kwh) from flows.circuit_interval_monthly",
    "select array_agg(p::text order by p::text) from pg_policies as p",
    "select array_agg(g::text order by g::text) from information_schema.role_table_grants as g"
    " where g.table_schema in ('api', 'flows', 'gateway')",
    "select array_agg(r.rolname || r.rolbypassrls || r.rolinherit order by r.rolname)"
    " from pg_roles as r",
)
COLUMNSTORE = (
    "select count(*) filter (where is_compressed), count(*) from timescaledb_information.chunks"
)
COMPRESS = (
    "select compress_chunk(c, if_not_compressed => true)"
    " from show_chunks('flows.register_interval_hh', older_than => interval '7 days') as c"
)
CHANGES = "select max(id) from flows.change"
LATER_WAL = "00000001000000FF00000000"
VIEWS = "select relname from pg_class where relnamespace = 'api'::regnamespace and relkind = 'v'"


@dataclass(frozen=True)
class Kept:
    """A stack that archives WAL, its backups, and the time before it was damaged."""

    stack: Stack
    folder: BackupFolder
    moment: datetime
    state: list[Any]

    def flows(
        self, *words: str, check: bool = True, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a `flows` command on this stack."""
        return _flows(self.stack, self.folder.folder, *words, check=check, **settings)

    def archived(self) -> None:
        """Wait until all WAL written so far is archived."""
        with psycopg.connect(self.stack.contract["database_url"], autocommit=True) as admin:
            admin.execute("select pg_logical_emit_message(false, 'test', 'a segment is not empty')")
            row = admin.execute("select pg_walfile_name(pg_switch_wal())").fetchone()
        assert row
        wait_until(lambda: (self.folder.wal / row[0]).exists(), 90)


def _flows(
    stack: Stack, folder: Path, *words: str, check: bool = True, **settings: str
) -> subprocess.CompletedProcess[str]:
    ours = {"FLOWS_HOME": str(stack.home), "FLOWS_BACKUP_FOLDER": str(folder)}
    done = run_command(words, os.environ | ours | settings)
    assert done.returncode == 0 or not check, done.stderr
    return done


def state(admin: Admin) -> list[Any]:
    """Return sums, rights, and the number of rows each tenant sees of each relation."""
    found: list[Any] = [admin.execute(query.encode()).fetchone() for query in STATE]
    if has_timescale():
        found.append(admin.execute(COLUMNSTORE.encode()).fetchone())
    views = sorted(row[0] for row in admin.execute(VIEWS))
    for (esco,) in admin.execute("select id from flows.escos order by id").fetchall():
        with admin.transaction(force_rollback=True):
            admin.execute(
                "select set_config('app.current_esco', %s, true),"
                " set_config('role', 'public_backend', true)",
                (str(esco),),
            )
            for view in views:
                query = psycopg.sql.SQL("select count(*) from api.{}")
                rows = admin.execute(query.format(psycopg.sql.Identifier(view))).fetchone()
                found.append((esco, view, rows))
    return found


def write(stack: Stack, kwh: float) -> None:
    """Write a half-hour through the gateway."""
    with stack.client("wlce", "write") as client:
        (register,) = client.get("/rest/v1/meter_registers?limit=1").raise_for_status().json()
        answer = client.post(
            "/rest/v1/register_interval_hh",
            json={
                "register_id": register["register_id"],
                "timestamp": "2026-01-01T00:00:00Z",
                "import_kwh": kwh,
            },
            headers={"Prefer": "resolution=merge-duplicates"},
        )
        assert answer.status_code in (200, 201), answer.text


@contextmanager
def room() -> Iterator[Path]:
    """A folder that PostgreSQL's own user can enter; pytest removes access to its own."""
    with tempfile.TemporaryDirectory(prefix="flows-test-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with room() as folder:
        yield folder


@pytest.fixture(scope="module")
def kept() -> Iterator[Kept]:
    """A stack with a backup, then a write, then damage, then a backup that contains the damage."""
    with (
        room() as folder,
        running_stack(FLOWS_BACKUP_FOLDER=str(folder), FLOWS_METRICS="open") as stack,
    ):
        if has_timescale():
            with psycopg.connect(stack.contract["database_url"], autocommit=True) as admin:
                assert admin.execute(COMPRESS.encode()).fetchall()
        made = json.loads(_flows(stack, folder, "backup", "create", "--json").stdout)
        assert made["kind"] == "full"
        write(stack, 1.25)
        _flows(stack, folder, "db", "refresh")
        with psycopg.connect(stack.contract["database_url"]) as admin:
            known = state(admin)
            ((moment,),) = admin.execute("select clock_timestamp()").fetchall()
        with psycopg.connect(stack.contract["database_url"]) as admin:
            admin.execute(
                "delete from flows.register_interval_hh where register_id = (select register"
                " from flows.circuit_register order by register limit 1)"
            )
            admin.execute('drop policy "an ESCO has its rows" on flows.meter_registry')
        made = json.loads(
            _flows(stack, folder, "backup", "create", "--incremental", "--json").stdout
        )
        assert made["kind"] == "incremental"
        yield Kept(stack, BackupFolder(folder), moment, known)


def test_the_newest_backup_is_told_to_the_database(kept: Kept) -> None:
    newest = kept.folder.latest()
    assert newest is not None
    with psycopg.connect(kept.stack.contract["database_url"]) as admin:
        told = admin.execute("select ended_at, kind, size from gateway.last_backup").fetchall()
    assert told == [(newest.ended_at, newest.kind, newest.bytes)]


def test_recovery_restores_rows_rights_and_isolation(kept: Kept, tmp_path: Path) -> None:
    kept.archived()
    with (
        recovered(kept.folder, tmp_path / "then", kept.moment) as server,
        psycopg.connect(server.url) as admin,
    ):
        assert state(admin) == kept.state
    with (
        recovered(kept.folder, tmp_path / "now", None) as server,
        psycopg.connect(server.url) as admin,
    ):
        damaged = state(admin)
        assert damaged[0] != kept.state[0]  # rows
        assert damaged[4] != kept.state[4]  # policies


def test_a_drill_passes_or_names_the_faults(kept: Kept) -> None:
    kept.archived()
    drill = json.loads(
        kept.flows("backup", "drill", "--at", kept.moment.isoformat(), "--json").stdout
    )
    assert drill["faults"] == []
    rows = {one["series"]: one["rows"] for one in drill["series"]}
    assert rows["register_interval_hh"] == kept.state[0][0]
    damaged = kept.flows("backup", "drill", "--json", check=False)
    assert damaged.returncode == 1
    # Without its policy no ESCO sees a meter: safe, but a fault.
    assert any("wlce has" in fault for fault in json.loads(damaged.stdout)["faults"])


def test_a_table_as_of_a_point_in_time_is_written_as_csv(kept: Kept, tmp_path: Path) -> None:
    kept.archived()
    file = tmp_path / "register_interval_hh.csv"
    words = ("backup", "table", "register_interval_hh", "--output", str(file))
    kept.flows(*words, "--at", kept.moment.isoformat())
    assert file.read_text().count("\n") == kept.state[0][0] + 1
    assert file.read_text().startswith("register_id,timestamp,import_kwh,export_kwh,")
    refused = kept.flows(
        "backup", "table", "pg_authid", "--output", str(tmp_path / "b"), check=False
    )
    assert (refused.returncode, "no table pg_authid" in refused.stderr) == (1, True)
    assert not (tmp_path / "b").exists()
    assert kept.flows(*words, check=False).returncode == 1  # the file exists already


def test_a_missing_link_a_damaged_file_and_missing_wal_fail_loudly(
    kept: Kept, tmp_path: Path
) -> None:
    folder = BackupFolder(tmp_path / "copy")
    shutil.copytree(kept.folder.folder / "base", folder.folder / "base")
    full, incremental = folder.backups()
    now = kept.folder.backups()[-1].ended_at + timedelta(seconds=30)
    for at, expected in ((now, "recovery target"), (full.ended_at + timedelta(1), "target")):
        with (
            pytest.raises(StackError, match=expected),
            recovered(folder, tmp_path / f"short-{at:%H%M%S%f}", at),
        ):
            pass
    victim = next(folder.data(full.label).glob("base/*/PG_VERSION"))
    victim.write_text("17\n")
    with pytest.raises(StackError, match="pg_verifybackup"), recovered(folder, tmp_path / "a", now):
        pass
    folder.remove(full)
    with pytest.raises(BackupError, match=f"{incremental.label} builds on {full.label}"):
        folder.chain(incremental)
    check = _flows(kept.stack, folder.folder, "backup", "check", check=False)
    assert check.returncode == 1
    assert "which is missing" in check.stderr
    assert not list(tmp_path.glob("*.recovery"))


def test_backups_that_no_kept_time_needs_are_pruned(kept: Kept, tmp_path: Path) -> None:
    folder = BackupFolder(tmp_path / "copy")
    shutil.copytree(kept.folder.folder, folder.folder)
    full, incremental = folder.backups()
    later = incremental.ended_at + timedelta(days=30)
    assert prune(folder, later, timedelta(days=40)) == []
    assert folder.backups() == [full, incremental]  # the only full one stays
    shutil.copytree(folder.data(full.label), folder.data("20991231T000000Z"))
    newer = type(full)("20991231T000000Z", "full", None, later, later, LATER_WAL, 1)
    folder.add(newer)
    (folder.wal / LATER_WAL).touch()
    gone = prune(folder, later + timedelta(days=41), timedelta(days=40))
    assert gone == [full, incremental]
    assert folder.backups() == [newer]
    assert not folder.data(full.label).exists()
    assert [file.name for file in folder.wal.iterdir()] == [LATER_WAL]


def test_a_stalled_archive_is_an_alarm_before_the_disk_is_full(kept: Kept) -> None:
    url = kept.stack.contract["base_url"] + "/metrics"

    def failing() -> bool:
        return "flows_wal_archive_failing 1.0" in httpx.get(url).text

    kept.archived()
    assert not failing()
    assert kept.flows("backup", "check").stdout.startswith("ok")
    wal = kept.folder.wal
    owner = wal.stat().st_uid
    os.chown(wal, os.geteuid(), -1)
    wal.chmod(0o500)
    try:
        with psycopg.connect(kept.stack.contract["database_url"], autocommit=True) as admin:
            admin.execute("select pg_logical_emit_message(false, 'test', 'not empty')")
            admin.execute("select pg_switch_wal()")
        wait_until(failing, 60)
        check = kept.flows("backup", "check", check=False)
        assert check.returncode == 1
        assert "archiving fails" in check.stderr
        write(kept.stack, 3.75)  # goes on
    finally:
        wal.chmod(0o700)
        os.chown(wal, owner, -1)
    kept.archived()
    wait_until(lambda: not failing(), 60)


def test_impossible_arguments_give_a_one_line_error(kept: Kept) -> None:
    for words, expected in (
        (("restore",), "already running"),
        (("restore", "--at", "2026-11-25T00:00"), "no offset"),
        (("restore", "--at", "yesterday"), "not a time like"),
        (("restore", "--at", "2999-01-01T00:00Z"), "in the future"),
        (("drill", "--at", "2020-01-01T00:00Z"), "there is no backup that had ended by"),
        (("restore", "--into", "/tmp"), "exists already"),
    ):
        refused = kept.flows("backup", *words, check=False)
        assert refused.returncode == 1
        assert expected in refused.stderr
        assert refused.stderr.count("\n") == 1, refused.stderr


def test_the_schedule_does_what_is_due_and_reports_a_failed_drill(kept: Kept) -> None:
    """Run after the tests that look at the two first backups, because it makes a third."""
    kept.archived()
    words = ("backup", "schedule", "--once")
    settings = {
        "FLOWS_BACKUP_FULL_HOURS": "9999",
        "FLOWS_BACKUP_INCREMENTAL_HOURS": "0.0001",
        "FLOWS_BACKUP_DRILL_HOURS": "0.0001",
    }
    done = kept.flows(*words, check=False, **settings)
    told = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    said = [(line["level"], line["message"]) for line in told if "schedule" in line["message"]]
    assert [level for level, _ in said] == ["info", "error"], done.stderr
    assert said[0][1].startswith("backup schedule: incremental: ")
    assert said[1][1].startswith("backup schedule: drill failed: ")
    assert "wlce has" in said[1][1]
    assert done.returncode == 1
    assert [one.kind for one in kept.folder.backups()] == ["full", "incremental", "incremental"]
    drilled = kept.folder.last_drill()
    assert drilled
    assert any("wlce has" in fault for fault in drilled[1])
    # Nothing else is due now.
    idle = kept.flows(*words, FLOWS_BACKUP_INCREMENTAL_HOURS="0", FLOWS_BACKUP_FULL_HOURS="9999")
    assert "schedule" not in idle.stderr


def test_a_backup_is_whole_while_the_database_is_upgraded(kept: Kept) -> None:
    """An upgrade brings back the policy that the damage took, so that the drill finds no fault."""
    url = kept.stack.contract["database_url"]
    began, done = threading.Event(), threading.Event()

    def upgrade() -> int:
        number = 0
        while not done.is_set():
            with psycopg.connect(url) as admin:
                admin.execute("update gateway.schema_objects set sha256 = ''")
            began.set()
            migrate(url)  # every object again, in one transaction
            number += 1
        return number

    with ThreadPoolExecutor(1) as pool:
        upgraded = pool.submit(upgrade)
        assert began.wait(60)
        made = json.loads(kept.flows("backup", "create", "--json").stdout)
        done.set()
        assert upgraded.result(timeout=120) >= 1
    assert made["kind"] == "full"
    kept.archived()
    assert json.loads(kept.flows("backup", "drill", "--json").stdout)["faults"] == []


def test_a_restore_in_place_continues_from_the_recovery_point(kept: Kept, tmp_path: Path) -> None:
    """Run last in this file, because it stops the stack."""
    kept.archived()
    kept.stack.process.terminate()
    kept.stack.process.wait(60)
    kept.flows("backup", "restore", "--at", kept.moment.isoformat())
    assert len(list(kept.stack.home.glob("postgres.before-*"))) == 1
    environment = {
        "FLOWS_HOME": str(kept.stack.home),
        "FLOWS_PORT": kept.stack.contract["base_url"].rpartition(":")[2],
        "FLOWS_BACKUP_FOLDER": str(kept.folder.folder),
    }
    again = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "up"],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert again.stdout is not None
        assert again.stdout.readline().startswith("ready ")
        with psycopg.connect(kept.stack.contract["database_url"]) as admin:
            assert state(admin) == kept.state
            # ETags issued after the recovery point are invalid.
            ((newest,),) = admin.execute(CHANGES).fetchall()
            assert newest > 1_000_000
        # Tokens and passwords still work, and new writes are part of the next recovery.
        kept.flows("backup", "create")
        write(kept.stack, 2.5)
        kept.archived()
        with psycopg.connect(kept.stack.contract["database_url"]) as admin:
            written = admin.execute(STATE[0].encode()).fetchone()
        with (
            recovered(kept.folder, tmp_path / "later", None) as server,
            psycopg.connect(server.url) as admin,
        ):
            assert admin.execute(STATE[0].encode()).fetchone() == written
    finally:
        again.terminate()
        again.communicate(timeout=60)
