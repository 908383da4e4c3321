"""A server is backed up to S3-compatible storage, encrypted, and restored from there."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import httpx
import psycopg
import pytest

from app.embedded.ports import free_port
from app.embedded.process import Child
from app.embedded.programs import binaries, has_timescale
from tests.conftest import answers, wait_until
from tests.servers import Server, enterable_folder, postgres_server, run_flows

pytestmark = pytest.mark.stack

SCRIPT = Path(__file__).parents[2] / "deploy" / "backup" / "object-storage.sh"
PROGRAMS = Path(sys.executable).parent
PATH = f"{PROGRAMS}:{os.environ['PATH']}"
BUCKET = "flows-backups"
ROWS = """
    insert into flows.escos (code, name) values ('s3', 'Stored Energy');
    insert into flows.sites_new (esco, name, code)
    select id, 'Site ' || n, 's3-' || n from flows.escos, generate_series(1, 500) as n;
    insert into flows.meter_registry (serial, name, esco) select 'S3', 'S3', id from flows.escos;
    insert into flows.meter_csq (meter_id, "timestamp", csq)
    select id, now() - n * interval '1 hour', n % 32
    from flows.meter_registry, generate_series(1, 5000) as n;
"""
SUMS = """
    select
        (select count(*) from flows.sites_new), (select md5(string_agg(code, ',' order by code)) from flows.sites_new),
        (select count(*) from flows.meter_csq), (select sum(csq) from flows.meter_csq)
"""  # noqa: E501


@dataclass(frozen=True)
class Stored:
    """A server that archives to object storage, and the sums before a mishap."""

    server: Server
    endpoint: str
    settings: dict[str, str]
    moment: str
    sums: tuple[Any, ...]

    def script(self, *words: str) -> str:
        """Run a command of the script as the server's user."""
        return script(self.server, self.settings, *words)

    def objects(self) -> dict[str, str | None]:
        """Return the keys of all objects in the bucket, and how each is encrypted."""
        client = boto3.client(
            "s3", endpoint_url=self.endpoint, region_name="eu-west-1",
            aws_access_key_id="key", aws_secret_access_key="secret",
        )  # fmt: skip
        keys = [one["Key"] for one in client.list_objects_v2(Bucket=BUCKET)["Contents"]]
        heads = {key: client.head_object(Bucket=BUCKET, Key=key) for key in keys}
        return {key: head.get("ServerSideEncryption") for key, head in heads.items()}


def script(server: Server, settings: dict[str, str], *words: str) -> str:
    done = subprocess.run(
        ["sh", str(SCRIPT), *words],
        env=settings,
        user=server.user,
        group=server.user,
        extra_groups=[] if server.user else None,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def object_storage(folder: Path) -> Iterator[str]:
    """Run a server of S3's interface with a bucket; yield its URL."""
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    command = [str(PROGRAMS / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    child = Child("S3", command, log=folder / "s3.log", env=os.environ)
    try:
        child.wait_until(lambda: answers(endpoint), seconds=60)
        httpx.put(f"{endpoint}/{BUCKET}").raise_for_status()
        yield endpoint
    finally:
        child.stop()


@pytest.fixture(scope="module")
def stored() -> Iterator[Stored]:
    """A server whose archive and backup are in object storage, and which is damaged afterwards."""
    if shutil.which("barman-cloud-backup") is None:
        pytest.skip("no barman-cloud-backup here (apt-get install barman-cli-cloud)")
    with enterable_folder() as folder, object_storage(folder) as endpoint:
        settings = {
            "FLOWS_OBJECT_STORE": f"s3://{BUCKET}/flows",
            "FLOWS_OBJECT_STORE_ENDPOINT": endpoint,
            "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "eu-west-1", "HOME": str(folder),
            "PATH": PATH,
        }  # fmt: skip
        file = folder / "object-storage.env"
        file.write_text("".join(f"{name}='{value}'\n" for name, value in settings.items()))
        file.chmod(0o644)
        command = f"FLOWS_OBJECT_STORE_FILE={file} sh {SCRIPT} archive %p"
        archived = f"archive_mode = on\narchive_command = '{command}'\n"
        with postgres_server(folder / "server", settings=archived) as server:
            login = {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": "postgres",
                     "PGPASSWORD": "a-password-of-this-test", "PGDATABASE": "postgres"}  # fmt: skip
            settings |= login | {"FLOWS_OBJECT_STORE_FILE": str(file)}
            yield _stored(server, endpoint, settings)


def _stored(server: Server, endpoint: str, settings: dict[str, str]) -> Stored:
    migrated = run_flows("db", "migrate", FLOWS_DATABASE_ADMIN_URL=server.url())
    assert migrated.returncode == 0, migrated.stderr
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(ROWS)
        script(server, settings, "backup")
        if has_timescale():
            admin.execute("select compress_chunk(c) from show_chunks('flows.meter_csq') as c")
        admin.execute("insert into flows.sites_new (esco, name, code)"
                      " select id, 'Late', 's3-late' from flows.escos")  # fmt: skip
        sums = admin.execute(SUMS).fetchone()
        ((moment,),) = admin.execute("select clock_timestamp()::text").fetchall()
        admin.execute("delete from flows.meter_csq")
        admin.execute("delete from flows.sites_new")
        ((segment,),) = admin.execute("select pg_walfile_name(pg_switch_wal())").fetchall()
    assert sums
    found = Stored(server, endpoint, settings, moment, sums)
    wait_until(lambda: any(segment in key for key in found.objects()))
    return found


def test_a_server_is_restored_from_object_storage_to_a_moment(
    stored: Stored, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with enterable_folder() as folder:
        data = folder / "restored"
        data.mkdir(mode=0o700)
        if stored.server.user:
            for given in (folder, data):
                shutil.chown(given, stored.server.user, stored.server.user)
        (newest,) = stored.script("list").strip().splitlines()[1:]
        stored.script("restore", str(data), newest.split()[0], stored.moment)
        port = free_port()
        with (data / "postgresql.auto.conf").open("a") as settings:
            settings.write(f"port = {port}\nunix_socket_directories = '{folder}'\n")
        command = [str(binaries() / "postgres"), "-D", str(data)]
        child = Child("PostgreSQL", command, log=folder / "log", user=stored.server.user,
                      env=stored.settings, stop_signal="SIGINT")  # fmt: skip
        url = stored.server.url().replace(f":{stored.server.port}/", f":{port}/")

        def promoted() -> bool:
            try:
                with psycopg.connect(url) as admin:
                    return admin.execute("select not pg_is_in_recovery()").fetchone() == (True,)
            except psycopg.OperationalError:
                return False

        try:
            child.wait_until(promoted, seconds=120)
            with psycopg.connect(url) as admin:
                assert admin.execute(SUMS).fetchone() == stored.sums
        finally:
            child.stop()


def test_everything_in_the_storage_is_encrypted(stored: Stored) -> None:
    found = stored.objects()
    assert any("/base/" in key for key in found)
    assert any("/wals/" in key for key in found)
    assert set(found.values()) == {"AES256"}, found


def test_backups_are_listed_and_kept_while_they_are_needed(stored: Stored) -> None:
    (line,) = stored.script("list").strip().splitlines()[1:]
    before = stored.objects()
    stored.script("prune")
    assert stored.objects() == before
    assert line.split()[0] in " ".join(before)
