"""`flows db analyze | vacuum | reindex | prune | sizes` work while the database serves."""

import json
import threading
from collections.abc import Iterator

import psycopg
import pytest

from tests.conftest import Stack, flows, running_stack

INDEXES = """
    select c.oid::regclass::text, c.relfilenode from pg_index as i join pg_class as c
    on c.oid = i.indexrelid join pg_class as t on t.oid = i.indrelid
    where c.relkind = 'i' and not i.indisexclusion and t.relname !~ '_hypertable_\\d+$'
        and (t.relnamespace in ('gateway'::regnamespace, 'flows'::regnamespace)
            or t.relname ~ '^_hyper_\\d+_\\d+_chunk$')
        and c.oid not in (select indexrelid from pg_index
            where indrelid in (select inhparent from pg_inherits))
"""


@pytest.fixture(scope="module")
def own() -> Iterator[Stack]:
    """A stack whose indexes a test may replace."""
    with running_stack() as running:
        yield running


def test_every_index_is_built_again_while_requests_are_answered(own: Stack) -> None:
    url = own.contract["database_url"]
    with psycopg.connect(url, autocommit=True) as admin:
        # Left by a run that was killed.
        admin.execute("create unique index circuits_pkey_ccnew on flows.circuits (id)")
        admin.execute(
            "update pg_index set indisvalid = false"
            " where indexrelid = 'flows.circuits_pkey_ccnew'::regclass"
        )
        before: dict[str, int] = dict(admin.execute(INDEXES).fetchall())
    done = threading.Event()
    answered: list[int] = []

    def ask() -> None:
        with own.client("wlce") as client:
            while not done.is_set():
                answered.append(client.get("/rest/v1/meter_registry?limit=1").status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        steps = json.loads(flows(own, "db", "reindex", "--json").stdout)
    finally:
        done.set()
        asking.join()
    assert set(answered) == {200}
    with psycopg.connect(url, autocommit=True) as admin:
        after: dict[str, int] = dict(admin.execute(INDEXES).fetchall())
        invalid = admin.execute("select from pg_index where not indisvalid").fetchall()
    del before["flows.circuits_pkey_ccnew"]
    assert invalid == []
    assert after.keys() == before.keys()
    assert [name for name in before if before[name] == after[name]] == []
    assert {"flows.circuits", "gateway.client"} <= {step["table"] for step in steps}


def test_statistics_and_dead_rows_are_brought_up_to_date(own: Stack) -> None:
    with psycopg.connect(own.contract["database_url"], autocommit=True) as admin:
        admin.execute("update flows.meter_registry set name = name")
        admin.execute("select pg_stat_force_next_flush()")
    for command in ("analyze", "vacuum"):
        steps = json.loads(flows(own, "db", command, "--json").stdout)
        assert {"flows.meter_registry", "flows.register_interval_hh"} <= {
            step["table"] for step in steps
        }
    found = json.loads(flows(own, "db", "sizes", "--json").stdout)
    tables = {table["table"]: table for table in found["tables"]}
    meters = tables["flows.meter_registry"]
    assert meters["dead_rows"] == 0
    assert meters["vacuumed_at"]
    assert meters["analyzed_at"]
    assert tables["flows.register_interval_hh"]["table_bytes"] > 1_000_000
    assert found["database_bytes"] > sum(table["index_bytes"] for table in found["tables"])
    printed = flows(own, "db", "sizes").stdout
    assert "flows.meter_registry" in printed
    assert "of blocks from the cache" in printed


def test_expired_revocations_and_old_rows_are_pruned(own: Stack) -> None:
    with psycopg.connect(own.contract["database_url"], autocommit=True) as admin:
        admin.execute(
            "insert into gateway.revoked_token (jti, expires_at) values"
            " ('old', now() - interval '1 day'), ('new', now() + interval '1 day')"
        )
        done = {row["task"]: row["done"] for row in json.loads(
            flows(own, "db", "prune", "--json").stdout)}  # fmt: skip
        left = admin.execute("select jti from gateway.revoked_token").fetchall()
    assert done["revocations of expired tokens"] == 1
    assert left == [("new",)]
    assert len(done) > 1  # the retention of the series is a part of it
