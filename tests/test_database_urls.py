"""The guide's database URLs work as libpq reads them: with and without TLS, with several hosts."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
from pydantic import SecretStr

from app.db.session import Pool, create_pool
from app.embedded.ports import free_port
from app.embedded.postgrest import CONFIG, find_postgrest
from app.embedded.programs import binaries
from app.settings import DatabaseSettings
from tests.conftest import Stack, wait_until
from tests.servers import (
    PASSWORD,
    Server,
    enterable_folder,
    postgres_server,
    run_flows,
    tls_in_front,
    write_certificates,
)

GUIDE = Path(__file__).parents[1] / "docs" / "how-to" / "run-on-your-own-database.md"

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server without TLS, with an empty database."""
    with enterable_folder() as folder, postgres_server(folder / "server") as running:
        yield running


def guide_settings(address: str, query: str = "") -> dict[str, str]:
    """Return the settings with a database's URL from the guide, for a server's address."""
    found = dict(re.findall(r"(FLOWS_\w+)=(postgresql://\S+)", GUIDE.read_text()))
    assert set(found) == {
        "FLOWS_DATABASE_ADMIN_URL", "FLOWS_DATABASE_URL", "FLOWS_POSTGREST_DATABASE_URL",
    }  # fmt: skip
    return {
        name: url.replace(":…@db/", f":{PASSWORD}@{address}/") + query
        for name, url in found.items()
    }


@contextmanager
def running(*command: str, **environment: str) -> Iterator[None]:
    """Run a program until the context ends."""
    process = subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def serves(stack: Stack, settings: dict[str, str], home: Path) -> None:
    """Assert that the database is migrated, and served by a gateway and PostgREST."""
    migrated = run_flows("db", "migrate", FLOWS_HOME=str(home), **settings)
    assert migrated.returncode == 0, migrated.stderr
    port, rest_port = str(free_port()), str(free_port())
    rest = {
        "PGRST_DB_URI": settings["FLOWS_POSTGREST_DATABASE_URL"],
        "PGRST_SERVER_HOST": "127.0.0.1",
        "PGRST_SERVER_PORT": rest_port,
    }
    gateway = {
        "FLOWS_HOME": str(home),
        "FLOWS_PORT": port,
        "FLOWS_POSTGREST_URL": f"http://127.0.0.1:{rest_port}",
    }
    with (
        running(str(find_postgrest(stack.home)), str(CONFIG), **rest),
        running(sys.executable, "-m", "app.cli", "serve", **gateway, **settings),
    ):

        def ready() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{port}/ready").status_code == 200
            except httpx.TransportError:
                return False

        wait_until(ready)


def test_the_guides_urls_work_on_a_server_without_tls(
    stack: Stack, server: Server, tmp_path: Path
) -> None:
    serves(stack, guide_settings(f"127.0.0.1:{server.port}"), tmp_path)


def test_a_certificate_is_verified_by_every_part(
    stack: Stack, server: Server, tmp_path: Path
) -> None:
    with tls_in_front(server.port, tmp_path) as (port, authority):
        address = f"127.0.0.1:{port}"
        verified = f"?sslmode=verify-full&sslrootcert={authority}"
        serves(stack, guide_settings(address, verified), tmp_path)
        (tmp_path / "other").mkdir()
        with tls_in_front(server.port, tmp_path / "other") as (_, other):
            wrong = f"?sslmode=verify-full&sslrootcert={other}"
            refused = run_flows("db", "migrate", **guide_settings(address, wrong))
    assert refused.returncode == 1
    assert "certificate verify failed" in refused.stderr


def test_a_rotated_certificate_and_authority_are_taken_up_without_a_restart(
    server: Server, tmp_path: Path
) -> None:
    """Sessions go on; the file of authorities is read at each new connection."""

    async def session(pool: Pool) -> int:
        async with pool.connection() as connection:
            found = await connection.execute("select pg_backend_pid() as pid")
            row = await found.fetchone()
        assert row
        pid: int = row["pid"]
        return pid

    async def rotated(url: str) -> None:
        async with create_pool(DatabaseSettings(url=SecretStr(url)), 1) as pool:
            first = await session(pool)
            write_certificates(tmp_path)
            assert await session(pool) == first
            with psycopg.connect(server.url(), autocommit=True) as admin:
                admin.execute("select pg_terminate_backend(%s, 5000)", (first,))
            assert await session(pool) != first

    with tls_in_front(server.port, tmp_path) as (port, authority):
        old = tmp_path / "old.pem"
        shutil.copy(authority, old)
        query = "?sslmode=verify-full&sslrootcert="
        address = server.url(query=query).replace(f":{server.port}/", f":{port}/")
        asyncio.run(rotated(f"{address}{authority}"))
        with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
            psycopg.connect(f"{address}{old}")


def test_of_several_hosts_the_one_that_accepts_writes_is_used(
    stack: Stack, server: Server, tmp_path: Path
) -> None:
    with enterable_folder() as folder, ExitStack() as servers:
        settings = "default_transaction_read_only = on\n"
        standby = servers.enter_context(postgres_server(folder / "standby", settings=settings))
        # A standby has the primary's logins, and libpq gives up at one that is refused.
        with psycopg.connect(standby.url(), autocommit=True) as connection:
            connection.execute("set default_transaction_read_only = off")
            for login in ("flows_gateway", "authenticator"):
                connection.execute(f"create role {login} login password '{PASSWORD}'")
        hosts = f"127.0.0.1:1,127.0.0.1:{standby.port},127.0.0.1:{server.port}"
        serves(stack, guide_settings(hosts, "?target_session_attrs=read-write"), tmp_path)
        with psycopg.connect(standby.url()) as connection:
            found = connection.execute("select to_regnamespace('flows')").fetchone()
    assert found == (None,)


def test_a_backup_program_without_tls_says_where_to_find_others(server: Server) -> None:
    if "ssl" in subprocess.check_output([binaries() / "pg_config", "--configure"], text=True):
        pytest.skip("these programs have TLS")
    with enterable_folder() as folder:
        refused = run_flows(
            "backup", "create",
            FLOWS_BACKUP_FOLDER=str(folder),
            FLOWS_DATABASE_ADMIN_URL=server.url(query="?sslmode=prefer"),
        )  # fmt: skip
        assert refused.returncode == 0, refused.stderr
        with tls_in_front(server.port, folder) as (port, authority):
            verified = f"?sslmode=verify-full&sslrootcert={authority}"
            url = server.url(query=verified).replace(f":{server.port}/", f":{port}/")
            refused = run_flows(
                "backup", "create",
                FLOWS_BACKUP_FOLDER=str(folder), FLOWS_DATABASE_ADMIN_URL=url,
            )  # fmt: skip
    assert refused.returncode == 1
    assert "FLOWS_POSTGRES_BIN" in refused.stderr
    assert refused.stderr.count("\n") == 1
