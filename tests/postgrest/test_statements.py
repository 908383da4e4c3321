"""What callers ask leaves nothing behind in the sessions of the database (SECURITY 81)."""

from itertools import islice, permutations

import psutil
import psycopg

from tests.conftest import Stack

SHAPES = 400
COLUMNS = ("id", "serial", "name", "hardware", "site", "esco")


def private_bytes(stack: Stack) -> int:
    """Return the memory that PostgREST's sessions have of their own."""
    with psycopg.connect(stack.contract["database_url"]) as admin:
        found = admin.execute("select pid from pg_stat_activity where usename = 'authenticator'")
        processes = [psutil.Process(pid).memory_info() for (pid,) in found.fetchall()]
    return sum(memory.rss - memory.shared for memory in processes)


def test_81_queries_of_many_shapes_take_no_memory_for_good(stack: Stack) -> None:
    """Prepared, each shape took 140 KB of a session: a client's quota of them 14 MB a second."""
    shapes = islice(permutations(COLUMNS), SHAPES + 50)
    with stack.client("wlce") as client:

        def ask(columns: tuple[str, ...]) -> int:
            embedded = "escos(*),meter_registers(*),meter_shadows(*)"
            select = f"{','.join(columns)},{embedded}"
            query = {"select": select, "limit": "1"}
            return client.get("/rest/v1/meter_registry", params=query).status_code

        assert {ask(columns) for columns in islice(shapes, 50)} == {200}
        before = private_bytes(stack)
        assert {ask(columns) for columns in shapes} == {200}
        assert private_bytes(stack) - before < SHAPES * 30_000
