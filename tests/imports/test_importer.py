"""Imports beside others, when gateways stop, and at their bounds: on a stack of its own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

import httpx
import jwt
import psutil
import psycopg
import pytest
from starlette.datastructures import UploadFile

from app.imports.routes import take_over
from tests.conftest import Stack, another_gateway, process_of, running_stack, wait_until
from tests.imports.test_routes import ended, send, token

MEGABYTE = 2**20


@pytest.fixture(scope="module")
def own() -> Iterator[Stack]:
    """A separate stack, whose gateways are stopped."""
    with running_stack(
        FLOWS_IMPORTS_RUNNING="2",
        FLOWS_IMPORTS_WAITING_OF_ESCO="1",
        FLOWS_IMPORTS_WAITING="2",
        FLOWS_IMPORTS_MAX_FILE_BYTES=str(8 * MEGABYTE),
        FLOWS_LIMITS_REFUSAL_SECONDS="0",
    ) as stack:
        yield stack


def register_of(stack: Stack, esco: str) -> str:
    """Return a register of an ESCO."""
    with psycopg.connect(stack.contract["database_url"]) as admin:
        ((register,),) = admin.execute(
            "select r.register_id from flows.meter_registers as r"
            " join flows.meter_registry as m on m.id = r.meter_id"
            " join flows.escos as e on e.id = m.esco where e.code = %s"
            " order by r.register_id limit 1",
            (esco,),
        ).fetchall()
    return str(register)


@contextmanager
def nobody_writes(stack: Stack) -> Iterator[None]:
    """Let every import wait at its end, for a lock that is held here."""
    with psycopg.connect(stack.contract["database_url"]) as admin:
        admin.execute("lock table flows.register_interval_hh in exclusive mode")
        yield
        admin.rollback()


def half_hours(year: int, days: int = 1, word: str = "use") -> str:
    """Return a file of half-hours from a year's beginning."""
    rows = (
        f"{year}-01-{day + 1:02}T{half // 2:02}:{half % 2 * 30:02}Z,0.5\n"
        for day in range(days)
        for half in range(48)
    )
    return f"time,{word}\n" + "".join(rows)


def state(client: httpx.Client, answer: httpx.Response) -> str:
    """Return the state of an import."""
    found: str = client.get(answer.headers["location"]).json()["state"]
    return found


def test_no_esco_waits_for_the_imports_of_another(own: Stack) -> None:
    with own.client("wlce", "write") as first, own.client("hmce", "write") as second:
        options = {"register_id": register_of(own, "wlce"), "import_column": "use"}
        others = {"register_id": register_of(own, "hmce"), "import_column": "use"}
        with nobody_writes(own):
            running = send(first, half_hours(2001), **options)
            wait_until(lambda: state(first, running) == "running")
            waiting = send(first, half_hours(2002), **options)
            assert waiting.json()["state"] == "waiting"
            full = send(first, half_hours(2003), **options)
            assert (full.status_code, full.headers["retry-after"]) == (429, "10")
            assert full.json()["detail"].startswith("Imports of your ESCO are waiting")
            # The same file again is no further import, but it needs room until that is known.
            beside = send(second, half_hours(2001), **others)
            wait_until(lambda: state(second, beside) == "running")
            assert state(first, waiting) == "waiting", "one at a time of an ESCO"
            second_waits = send(second, half_hours(2002), **others)
            assert second_waits.status_code == 202
            with own.client("bfce", "write") as third:
                crowded = send(third, half_hours(2001), **others)
            assert (crowded.status_code, crowded.headers["retry-after"]) == (503, "10")
        for client, answer in ((first, running), (first, waiting), (second, beside)):
            assert ended(client, answer)["state"] == "done"
        assert ended(second, second_waits)["report"]["written"] == 48


def test_a_gateway_that_stops_leaves_failed_imports_and_no_rows(own: Stack) -> None:
    options = {"register_id": register_of(own, "wlce"), "import_column": "use"}
    with another_gateway(own) as other, own.client("wlce", "write") as here:
        with other.client("wlce", "write") as there, nobody_writes(own):
            running = send(there, half_hours(2005), **options)
            wait_until(lambda: state(here, running) == "running")
            waiting = send(there, half_hours(2006), **options)
            workers = psutil.Process(other.process.pid).children(recursive=True)
            assert workers
            other.process.terminate()
            other.process.wait(60)
            assert not [worker for worker in workers if worker.is_running()]
        for answer in (running, waiting):
            failed = ended(here, answer)
            assert failed["state"] == "failed"
            assert failed["error"].startswith("The gateway was stopped")
        again = send(here, half_hours(2005), **options)
        assert (again.status_code, again.json()["id"]) == (202, running.json()["id"])
        assert ended(here, again)["report"]["written"] == 48


def test_a_process_that_is_killed_fails_its_import(own: Stack) -> None:
    options = {"register_id": register_of(own, "wlce"), "import_column": "use"}
    with own.client("wlce", "write") as client:
        with nobody_writes(own):
            answer = send(client, half_hours(2007), **options)
            wait_until(lambda: state(client, answer) == "running")
            process_of(own.process.pid, "app.imports.worker").kill()
            failed = ended(client, answer)
        assert failed["error"] == "the import ended unexpectedly, so nothing was written"
        again = ended(client, send(client, half_hours(2007), **options))
    assert again["report"]["written"] == 48


def test_an_import_that_takes_too_long_fails(own: Stack) -> None:
    options = {"register_id": register_of(own, "wlce"), "import_column": "use"}
    with (
        another_gateway(own, FLOWS_IMPORTS_SECONDS="3") as other,
        other.client("wlce", "write") as client,
        nobody_writes(own),
    ):
        failed = ended(client, send(client, half_hours(2008), **options))
    assert "took longer than 3 seconds" in failed["error"]


def test_a_revoked_token_imports_nothing(own: Stack) -> None:
    options = {"register_id": register_of(own, "wlce"), "import_column": "use"}
    headers = token(own, "wlce", "read", "write")
    with own.client(None) as client, own.client("wlce", "write") as other:
        client.headers.update(headers)
        with nobody_writes(own):
            running = send(other, half_hours(2009), **options)
            wait_until(lambda: state(other, running) == "running")
            answer = send(client, half_hours(2010), **options)
            assert answer.status_code == 202
            with psycopg.connect(own.contract["database_url"]) as admin:
                admin.execute(
                    "insert into gateway.revoked_token (jti, expires_at)"
                    " values (%s, now() + interval '1 hour')",
                    (claim(headers, "jti"),),
                )
        assert ended(other, running)["state"] == "done"
        assert ended(other, answer)["error"] == "The token is no longer valid"


def claim(headers: dict[str, str], name: str) -> str:
    """Return a claim of a bearer token."""
    claims = jwt.decode(headers["Authorization"][7:], options={"verify_signature": False})
    return str(claims[name])


def test_a_file_that_is_too_large_is_refused(own: Stack) -> None:
    options = {"register_id": register_of(own, "wlce"), "import_column": "use"}
    with own.client("wlce", "write") as client:
        content = half_hours(2011)
        largest = content + "\n" * (8 * MEGABYTE - len(content))
        assert ended(client, send(client, largest, **options))["state"] == "done"
        # The form may be a little longer than the file, so the second is refused by its head.
        for size in (len(largest) + 1, 10 * MEGABYTE):
            answer = send(client, largest.ljust(size, "\n"), **options)
            assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_a_file_is_handed_on_by_the_disk() -> None:
    digests = []
    for options in ({"unit": "Wh"}, {"unit": "Wh"}, {"unit": "kWh"}):
        with SpooledTemporaryFile(MEGABYTE) as spooled:
            spooled.write(b"content")
            descriptor, digest = take_over(UploadFile(cast("BinaryIO", spooled)), options)
        digests.append(digest)
        with open(descriptor, "rb") as kept:
            kept.seek(0)
            assert kept.read() == b"content"
            assert os.fstat(descriptor).st_nlink == 0, "nothing remains when the gateway ends"
    assert digests[0] == digests[1] != digests[2]
