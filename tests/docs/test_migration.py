"""The migration guide works: it migrates a database like those of deployments, with its energy."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from app.db.migrate import migrate
from tests.conftest import Stack

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "migrate-a-deployment.md"
POWER, SOLAR = (f"{n}0000000-0000-4000-8000-000000000000" for n in (3, 4))  # of deployed.sql
DEPLOYED = (Path(__file__).parent / "deployed.sql").read_text()


def script(heading: str) -> str:
    """Return the first SQL under a heading of the guide."""
    section = GUIDE.read_text().partition(f"{heading}\n")[2]
    found = re.search(r"^```sql\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def databases(stack: Stack) -> Iterator[tuple[str, str]]:
    """The URLs of a deployed database and of a new one, on the stack's server."""
    url = stack.contract["database_url"]
    names = ("flows_deployed", "flows_anew")
    with psycopg.connect(url, autocommit=True) as server:
        try:
            for name in names:
                server.execute(f"create database {name}")
            old, new = (url.replace("/flows?", f"/{name}?") for name in names)
            with psycopg.connect(old) as connection:
                connection.execute(DEPLOYED)
            migrate(new)
            yield old, new
        finally:
            for name in names:
                server.execute(f"drop database if exists {name} with (force)")
            server.execute("drop role if exists grafana")


def copy(source: str, target: str) -> subprocess.CompletedProcess[str]:
    """Run `flows db copy`."""
    return subprocess.run(
        [sys.executable, "-m", "app.cli", "db", "copy", "--from", source],
        env=os.environ | {"FLOWS_DATABASE_ADMIN_URL": target},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_deployed_database_is_prepared_and_copied(databases: tuple[str, str]) -> None:
    old, new = databases
    assert copy(old, new).returncode == 1, "unprepared it is refused, whole"
    with psycopg.connect(old, autocommit=True) as connection:
        connection.execute(script("### 1. Prepare a copy of the old database"))
    done = copy(old, new)
    assert done.returncode == 0, done.stderr
    with psycopg.connect(new) as connection:
        energy = connection.execute(
            "select register_id::text, count(*), sum(import_kwh)::float, sum(export_kwh)::float"
            " from flows.register_interval_hh group by 1 order by 1"
        ).fetchall()
        assert energy == [(POWER, 96, 24, 0), (SOLAR, 96, 0, 24)]
        for table, rows in (
            ("circuit_interval_daily", 2), ("register_import", 1), ("meter_csq", 1),
            ("meter_voltage", 1), ("meter_health_history", 1), ("meter_event_log", 1),
        ):  # fmt: skip
            counted = connection.execute(f"select count(*) from flows.{table}").fetchone()
            assert counted == (rows,), table


def test_grafana_logs_in_and_reads_every_esco(stack: Stack, databases: tuple[str, str]) -> None:
    url = stack.contract["database_url"]
    with psycopg.connect(url) as connection:
        connection.execute(script("### 4. Let Grafana and notebooks in"))
        connection.commit()
    parts = urlsplit(url)
    login = parts._replace(netloc="grafana:a%20long%20one%20of%20your%20own@")
    with psycopg.connect(urlunsplit(login)) as grafana:
        codes = grafana.execute("select code from escos order by code").fetchall()
        assert codes == [("bfce",), ("hmce",), ("wlce",)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            grafana.execute("select from flows.register_interval_hh")
