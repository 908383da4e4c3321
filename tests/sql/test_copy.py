"""`flows db copy`: it copies the rows of an existing database and updates the aggregates."""

import os
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest

from app.db.copy import copied_tables
from app.db.migrate import migrate
from tests.conftest import Stack

COUNTS = "select count(*), min(t::text) from flows.{} as t"
SUMS = (
    "select circuit_id, day, total_import_kwh, meters from flows.circuit_interval_daily"
    " where day < date_trunc('day', now(), 'UTC') order by 1, 2"
)


@pytest.fixture
def empty(stack: Stack) -> Iterator[str]:
    """The URL of a second database on the stack's server, migrated and empty."""
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as server:
        server.execute("create database flows_copy")
        url = stack.contract["database_url"].replace("/flows?", "/flows_copy?")
        try:
            migrate(url)
            yield url
        finally:
            server.execute("drop database flows_copy with (force)")


def copy(source: str, target: str) -> subprocess.CompletedProcess[str]:
    """Run `flows db copy`."""
    return subprocess.run(
        [sys.executable, "-m", "app.cli", "db", "copy", "--from", source],
        env=os.environ | {"FLOWS_DATABASE_ADMIN_URL": target},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_row_arrives_and_twice_is_refused_whole(
    stack: Stack, engine: str, empty: str
) -> None:
    source = stack.contract["database_url"]
    done = copy(source, empty)
    assert done.returncode == 0, done.stderr
    with psycopg.connect(source) as before, psycopg.connect(empty) as after:
        tables = copied_tables(after)
        assert len(tables) == 26
        for table in tables:
            query = COUNTS.format(table)
            assert after.execute(query).fetchone() == before.execute(query).fetchone(), table
        assert after.execute(SUMS).fetchall() == before.execute(SUMS).fetchall()
        if engine == "timescale":
            kept = "select flows.kept_until('circuit_interval_daily') > now() - interval '3 days'"
            assert after.execute(kept).fetchone() == (True,)
    again = copy(source, empty)
    assert again.returncode == 1
    assert again.stderr.startswith("error: nothing was copied: ")


def test_a_database_without_the_schema_is_told_from_an_empty_one(stack: Stack) -> None:
    bare = stack.contract["database_url"].replace("/flows?", "/postgres?")
    for command in ("status", "maintain", "refresh"):
        done = subprocess.run(
            [sys.executable, "-m", "app.cli", "db", command],
            env=os.environ | {"FLOWS_DATABASE_ADMIN_URL": bare},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert "run `flows db migrate` first" in " ".join(done.stderr.split())
    other = copy(bare, stack.contract["database_url"])
    assert other.returncode == 1
    assert "nothing was copied: the other database has no tables" in other.stderr
