"""Backups of servers that were not started by `flows up` are restored, whatever they are set to."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from app.backup.configuration import server_settings
from app.backup.folder import BackupError, BackupFolder
from app.backup.recover import recovered, tablespaces_of
from tests.conftest import wait_until
from tests.servers import Server, enterable_folder, postgres_server, run_flows

ARCHIVE = """
archive_mode = on
archive_library = 'basic_archive'
basic_archive.archive_directory = '{wal}'
summarize_wal = on
max_connections = 250
max_prepared_transactions = 7
"""
# Settings that an operator's server may have; they are written once it runs, since it would not
# start with them here.
ELSEWHERE = """
ssl = on
ssl_cert_file = '/etc/ssl/certs/server''s.pem'
Shared_Preload_Libraries 'pg_cron, pgaudit'   # a comment
huge_pages = on
lc_messages = 'xx_YY.UTF-8'
hba_file = '/etc/postgresql/18/main/pg_hba.conf'
external_pid_file = '/var/run/postgresql/18-main.pid'
unix_socket_directories = '/var/run/postgresql'
default_transaction_read_only = on
include_dir 'conf.d'
include_if_exists '/etc/postgresql/more.conf'
"""
NAMED = {
    "ssl = on",
    "ssl_cert_file = /etc/ssl/certs/server's.pem",
    "shared_preload_libraries = pg_cron, pgaudit",
    "lc_messages = xx_YY.UTF-8",
    "huge_pages = on",
    "hba_file = /etc/postgresql/18/main/pg_hba.conf",
    "work_mem = 9MB",
    "recovery_target_name = never",
    "include_if_exists = /etc/postgresql/more.conf",
}
ROWS = "select count(*), max(time) from public.elsewhere"
LOCALE = "qq_QQ.UTF-8"


@dataclass(frozen=True)
class Operated:
    """A server of an operator's own, its backups, and the rows that they hold."""

    server: Server
    folder: BackupFolder
    rows: tuple[object, ...]

    def flows(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a `flows` command as the operator."""
        settings = {
            "FLOWS_DATABASE_ADMIN_URL": self.server.url("chief", "energy"),
            "FLOWS_BACKUP_FOLDER": str(self.folder.folder),
        }
        return run_flows(*words, **settings)


@pytest.fixture(scope="module")
def operated() -> Iterator[Operated]:
    """A server with its own port, names, locale, tablespace, archive and configuration."""
    with enterable_folder() as folder:
        wal, place = folder / "backup" / "wal", folder / "a=place"
        locales = folder / "locales"
        shutil.copytree("/usr/lib/locale/C.utf8", locales / LOCALE)
        for path in (wal, place):
            path.mkdir(parents=True)
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("LOCPATH", f"{locales}:/usr/lib/locale")
            settings = ARCHIVE.replace("{wal}", str(wal))
            with postgres_server(
                folder / "server",
                settings=settings,
                initdb=(f"--locale={LOCALE}",),
                owned=(wal, place),
            ) as server:
                environment.delenv("LOCPATH")
                yield _operated(server, BackupFolder(folder / "backup"), place)


def _operated(server: Server, folder: BackupFolder, place: Path) -> Operated:
    with psycopg.connect(server.url(database="postgres"), autocommit=True) as admin:
        admin.execute("create role chief superuser login password 'a-password-of-this-test'")
        admin.execute("alter database flows rename to energy")
        admin.execute("alter role postgres nologin")
        admin.execute(f"create tablespace place location '{place}'")
    operated = Operated(server, folder, ())
    done = operated.flows("db", "migrate")
    assert done.returncode == 0, done.stderr
    with (server.data / "postgresql.conf").open("a") as written:
        written.write(ELSEWHERE)
    (server.data / "conf.d").mkdir()
    (server.data / "conf.d" / "10-memory.conf").write_text("work_mem = 9MB\n")
    with (server.data / "postgresql.auto.conf").open("a") as written:
        written.write("recovery_target_name = 'never'\n")
    for path in (server.data / "conf.d", *(server.data / "conf.d").iterdir()):
        if server.user:
            shutil.chown(path, server.user)
    with psycopg.connect(server.url("chief", "energy"), autocommit=True) as admin:
        admin.execute("create table public.elsewhere (time timestamptz) tablespace place")
        admin.execute("insert into public.elsewhere select clock_timestamp()")
    for kind in ((), ("--incremental",)):
        done = operated.flows("backup", "create", *kind)
        assert done.returncode == 0, done.stderr
    with psycopg.connect(server.url("chief", "energy"), autocommit=True) as admin:
        admin.execute("insert into public.elsewhere select clock_timestamp()")
        rows = admin.execute(ROWS).fetchone()
        segment = admin.execute("select pg_walfile_name(pg_switch_wal())").fetchone()
    assert rows
    assert segment
    wait_until(lambda: (folder.wal / segment[0]).exists(), 90)
    return Operated(server, folder, rows)


@pytest.mark.stack
def test_a_drill_restores_a_server_whose_settings_cannot_hold_here(operated: Operated) -> None:
    owner = operated.folder.wal.stat().st_uid
    done = operated.flows("backup", "drill", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["faults"] == []
    named = set(report["overridden"])
    assert named >= NAMED
    assert f"port = {operated.server.port}" in named
    assert not [name for name in named if "archive" in name]
    assert any(f"locale {LOCALE} is not installed here" in name for name in named)
    # The running server goes on to archive.
    assert operated.folder.wal.stat().st_uid == owner
    assert json.loads(operated.flows("backup", "check", "--json").stdout)["faults"] == []


@pytest.mark.stack
def test_a_restored_directory_keeps_the_servers_files_and_tablespaces(operated: Operated) -> None:
    with enterable_folder() as elsewhere:
        # The archive may be mounted at another place than the one it was written to.
        moved = elsewhere / "mounted"
        subprocess.run(["cp", "-a", str(operated.folder.folder), str(moved)], check=True)
        into = elsewhere / "restored"
        done = run_flows(
            "backup", "restore", "--into", str(into),
            FLOWS_BACKUP_FOLDER=str(moved),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert f"port = {operated.server.port}" in done.stdout
        assert "recovery_target_name" in (into / "postgresql.auto.conf").read_text()
        assert "pg_cron" in (into / "postgresql.conf").read_text()
        (link,) = (into / "pg_tblspc").iterdir()
        assert link.readlink() == tablespaces_of(into) / link.name
    folder = operated.folder
    with (
        enterable_folder() as scratch,
        recovered(folder, scratch / "data", None) as server,
        psycopg.connect(server.url) as admin,
    ):
        assert admin.execute(ROWS).fetchone() == operated.rows
        assert admin.info.user == "chief"


@pytest.mark.stack
def test_a_segment_that_cannot_be_read_is_an_error_not_an_early_end(operated: Operated) -> None:
    with enterable_folder() as elsewhere:
        folder = BackupFolder(elsewhere / "copy")
        subprocess.run(["cp", "-a", str(operated.folder.folder), str(folder.folder)], check=True)
        last = max(folder.wal.glob("0*"))
        os.chown(last, 12345, -1)
        last.chmod(0o600)
        with (
            pytest.raises(BackupError, match=f"{last.name} cannot be read"),
            recovered(folder, elsewhere / "data", None),
        ):
            pass


@pytest.mark.stack
def test_a_backup_of_another_major_version_is_named(operated: Operated) -> None:
    with enterable_folder() as elsewhere:
        folder = BackupFolder(elsewhere / "copy")
        subprocess.run(["cp", "-a", str(operated.folder.folder), str(folder.folder)], check=True)
        for backup in folder.backups():
            (folder.data(backup.label) / "PG_VERSION").write_text("15\n")
        with (
            pytest.raises(BackupError, match=r"is of PostgreSQL 15, .* FLOWS_POSTGRES_BIN"),
            recovered(folder, elsewhere / "data", None),
        ):
            pass


def test_configuration_files_are_read_as_postgresql_reads_them(tmp_path: Path) -> None:
    (tmp_path / "postgresql.conf").write_text(
        "# port = 1\nport = 5432\nport=5433 # later wins\nLog_Line_Prefix '%m ''x'' '\n"
        "include 'part.conf'\ninclude 'missing.conf'\ninclude_dir = 'conf.d'\ninclude '/etc/x'\n"
    )
    (tmp_path / "part.conf").write_text("work_mem = 4MB\n")
    (tmp_path / "conf.d").mkdir()
    for name, text in (("a.conf", "a.b = 1"), ("b.txt", "c = 2"), (".c.conf", "d = 3")):
        (tmp_path / "conf.d" / name).write_text(text)
    (tmp_path / "postgresql.auto.conf").write_text("work_mem = '5MB'\n")
    assert server_settings(tmp_path) == {
        "port": "5433",
        "log_line_prefix": "%m 'x' ",
        "include": "/etc/x",
        "a.b": "1",
        "work_mem": "5MB",
    }
    (tmp_path / "postgresql.conf").unlink()
    assert server_settings(tmp_path)["config_file"] == str(tmp_path / "postgresql.conf")
