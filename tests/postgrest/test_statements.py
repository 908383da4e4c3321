"""Queries take neither memory of the database for good (SECURITY 81) nor its disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice, permutations

import psutil
import psycopg

from tests.conftest import Stack, wait_until

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


@contextmanager
def sorting_in(stack: Stack, most: str) -> Iterator[None]:
    """Let PostgREST's sessions, which begin anew, sort in files of this size at most."""
    ended = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'authenticator'"
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as admin:
        for limit in (most, "1GB"):
            admin.execute(f"alter role authenticator set temp_file_limit = '{limit}'")
            admin.execute(ended)
            if limit == most:
                yield


def test_83_what_a_caller_sorts_is_bounded_on_disk(stack: Stack) -> None:
    """Others' writes are on the same disk, and the database ends when there is no room for them."""
    url = stack.contract["database_url"]
    with psycopg.connect(url) as admin:
        known = admin.execute("select rolconfig from pg_roles where rolname = 'authenticator'")
        assert "temp_file_limit=1GB" in known.fetchall()[0][0]
    path = "/rest/v1/register_interval_hh?order=kwh.desc,created_at,timestamp&limit=50000"
    with sorting_in(stack, "64kB"), stack.client("wlce") as client:
        refused = wait_until(lambda: (found := client.get(path)).status_code != 503 and found)
        assert (refused.status_code, refused.json()["code"]) == (422, "53400")
        assert "Ask for less" in refused.json()["hint"]
    with stack.client("wlce") as client:
        wait_until(lambda: client.get(path).status_code == 200)
