"""Answers to the question for changes: `changes`, `updated_since`, ETag and `data_as_of`."""

import base64
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import combinations
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.auth.keyring import AuthState, Keyring
from app.energy.changes import SeenChanges
from app.energy.formats import Format
from app.energy.response import DataVersion, RenderedReport, ReportRequest, response_headers
from app.errors import Unprocessable
from tests.conftest import Stack, another_gateway
from tests.energy.conftest import HALF_HOUR, OwnHome

START = datetime(2026, 3, 2, tzinfo=UTC)
PERIOD = {"period_from": START.isoformat(), "period_to": (START + timedelta(days=1)).isoformat(),
          "granularity": "PT30M"}  # fmt: skip
WRITTEN = (
    'insert into flows.register_interval_hh (register_id, "timestamp", import_kwh)'
    ' values (%s, %s, %s) on conflict (register_id, "timestamp")'
    " do update set import_kwh = excluded.import_kwh"
)


class Poller:
    """A client that keeps rows, and replaces the intervals that come anew."""

    def __init__(self, client: httpx.Client, **params: str) -> None:
        self._client = client
        self._params = PERIOD | params
        self.rows: dict[tuple[str, str], Any] = {}
        self._changes: str | None = None

    def poll(self) -> set[str]:
        """Ask for changes; return the intervals that came."""
        params = self._params | ({"changes": self._changes} if self._changes else {})
        answer = self._client.get("/v1/energy", params=params)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert answer.headers["next-changes"] == body["next_changes"]
        self._changes = body["next_changes"]
        came = {row["interval_start"] for row in body["rows"]}
        self.rows = {key: row for key, row in self.rows.items() if key[0] not in came}
        self.rows |= {(row["interval_start"], row["circuit"]): row for row in body["rows"]}
        if not came and "changes" in params:
            again = self._client.get(
                "/v1/energy", params=params, headers={"If-None-Match": answer.headers["etag"]}
            )
            assert again.status_code == 304
        return came

    def figures(self) -> dict[tuple[str, str], Any]:
        """Return the rows of groups that have a meter then; others only fill their intervals."""
        return {key: row for key, row in self.rows.items() if row["meters_expected"]}


def state_of(home: OwnHome, **params: str) -> tuple[str, str]:
    """Return the ETag and `data_as_of` of a day."""
    answer = home.client.get("/v1/energy", params=PERIOD | params)
    return answer.headers["etag"], answer.json()["data_as_of"]


# Nothing that an answer says changes with these; neither would more rows be right.
UNCHANGED = {
    "the same name": "update flows.circuits set name = name where id = %(circuit)s",
    "no row": "update flows.circuits set name = 'x' where id = %(esco)s",
    "no mapping": "update flows.circuit_register set end_time = now() where circuit = %(esco)s",
    "another ESCO": "insert into flows.escos (code, name) values (%(code)s || '-other', 'Other')",
    "another ESCO's name": "update flows.escos set name = 'O' where code = %(code)s || '-other'",
    "no other ESCO": "delete from flows.escos where code = %(code)s || '-other'",
    "the same half-hours": "update flows.register_interval_hh set import_kwh = import_kwh"
    " where register_id = %(register)s",
    "the same mapping": "update flows.circuit_register set notes = 'x' where circuit = %(circuit)s",
    "a new name": "update flows.circuits set name = 'Kitchen' where id = %(circuit)s",
    "hardware": "update flows.meter_registry set hardware = 'EML1' where id = %(meter)s",
    "another type": "update flows.circuits set type = 'heat' where id = %(circuit)s",
    "the type of before": "update flows.circuits set type = 'power' where id = %(circuit)s",
    "another ESCO's half-hour": "insert into flows.register_interval_hh"
    " (register_id, timestamp, import_kwh) select register_id, '2026-03-02T05:00Z', 1"
    " from flows.meter_registers where esco <> %(esco)s order by 1 limit 1",
    "another ESCO's mapping": "insert into flows.circuit_register (circuit, register, start_time)"
    " select c.id, r.register_id, '2026-03-02T03:00Z' from flows.register_interval_hh as h"
    " join flows.meter_registers as r using (register_id) join flows.circuits as c"
    " on r.esco = c.esco where h.timestamp = '2026-03-02T05:00Z' and r.esco <> %(esco)s"
    " and not exists (select from flows.circuit_register where circuit = c.id"
    " and register = r.register_id) order by 1 limit 1",
    "no mapping of another ESCO": "delete from flows.circuit_register"
    " where start_time = '2026-03-02T03:00Z'",
    "no half-hour of another ESCO": "delete from flows.register_interval_hh"
    " where timestamp = '2026-03-02T05:00Z' and register_id <> %(register)s",
}  # fmt: skip


def test_what_changes_no_figure_gives_no_row(own_home: OwnHome) -> None:
    own_home.read(START, START + timedelta(days=1))
    poller = Poller(own_home.client)
    assert len(poller.poll()) == 48
    before = state_of(own_home)
    since = {"updated_since": before[1]}
    for name, statement in UNCHANGED.items():
        own_home.execute(statement, "call flows.follow()")
        assert poller.poll() == set(), name
        answer = own_home.client.get("/v1/energy", params=PERIOD | since)
        assert answer.json()["rows"] == [], name
        assert state_of(own_home) == before, name


def test_a_type_that_is_asked_for_changes_its_rows(own_home: OwnHome) -> None:
    own_home.read(START, START + timedelta(days=1))
    by_type = {"group_by": "circuit,circuit_type"}
    poller = Poller(own_home.client, **by_type)
    poller.poll()
    before = state_of(own_home, **by_type)
    own_home.execute(UNCHANGED["another type"])
    assert len(poller.poll()) == 48
    assert {row["circuit_type"] for row in poller.rows.values()} == {"heat"}
    assert state_of(own_home, **by_type) != before
    assert poller.poll() == set()


def test_a_changed_half_hour_comes_once(own_home: OwnHome) -> None:
    own_home.read(START, START + timedelta(days=1))
    poller = Poller(own_home.client)
    poller.poll()
    before = state_of(own_home)
    at = START + 5 * HALF_HOUR
    own_home.admin.execute(WRITTEN, (own_home.register, at, 7))
    own_home.admin.execute("call flows.follow()")
    assert poller.poll() == {at.isoformat()}
    assert poller.poll() == set()
    assert state_of(own_home) != before
    changed = own_home.client.get("/v1/energy", params=PERIOD | {"updated_since": before[1]})
    assert [row["import_kwh"] for row in changed.json()["rows"]] == [7]
    since = {"updated_since": changed.json()["data_as_of"]}
    assert own_home.client.get("/v1/energy", params=PERIOD | since).json()["rows"] == []


def test_a_changed_mapping_comes_with_its_period_and_to_its_circuit(own_home: OwnHome) -> None:
    own_home.read(START, START + timedelta(days=1))
    with another_circuit(own_home) as (circuit, register):
        pollers = {
            "all": Poller(own_home.client),
            "own": Poller(own_home.client, circuit=str(own_home.circuit)),
            "other": Poller(own_home.client, circuit=str(circuit)),
            "meter": Poller(own_home.client, meter=own_home.code),
        }
        for poller in pollers.values():
            poller.poll()
        end = START + timedelta(hours=20)
        own_home.admin.execute(
            "update flows.circuit_register set end_time = %s where register = %s",
            (end, register),
        )
        own_home.admin.execute("call flows.follow()")
        came = {name: poller.poll() for name, poller in pollers.items()}
        last = {(end + n * HALF_HOUR).isoformat() for n in range(8)}
        assert came == {"all": last, "own": set(), "other": last, "meter": last}
        assert not any(poller.poll() for poller in pollers.values())
        # Without any mapping the circuit is in no row.
        own_home.admin.execute(
            "delete from flows.circuit_register where register = %s", (register,)
        )
        own_home.admin.execute("call flows.follow()")
        assert len(pollers["all"].poll()) == 40
        assert {circuit for _, circuit in pollers["all"].figures()} == {str(own_home.circuit)}


@contextmanager
def another_circuit(home: OwnHome) -> Iterator[tuple[UUID, UUID]]:
    """Yield a circuit of the home's ESCO and its register, of the home's meter."""
    circuit, register = uuid4(), uuid4()
    # Writers of circuits of one lock would wait for one another.
    own = home.admin.execute("select hashtext(%s::text) & 63", (home.circuit,)).fetchone()
    while home.admin.execute("select hashtext(%s::text) & 63", (circuit,)).fetchone() == own:
        circuit = uuid4()
    home.admin.execute(
        "insert into flows.meter_registers (register_id, meter_id) values (%s, %s)",
        (register, home.meter),
    )
    home.admin.execute(
        "insert into flows.circuits (id, type, esco) values (%s, 'power', %s)", (circuit, home.esco)
    )
    home.admin.execute(
        "insert into flows.circuit_register (circuit, register, start_time)"
        " values (%s, %s, '2000-01-01Z')",
        (circuit, register),
    )
    home.admin.execute("call flows.follow()")
    try:
        yield circuit, register
    finally:
        for table, column, its in (
            ("register_interval_hh", "register_id", register),
            ("circuit_register", "register", register), ("circuits", "id", circuit),
            ("meter_registers", "register_id", register),
        ):  # fmt: skip
            home.admin.execute(f"delete from flows.{table} where {column} = %s", (its,))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 1), st.integers(0, 3), st.integers(0, 2)),
        st.tuples(st.just("commit"), st.integers(0, 1), st.none(), st.none()),
        st.tuples(st.just("poll"), st.none(), st.none(), st.none()),
    ),
    min_size=4,
    max_size=24,
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=STEPS)
def test_no_late_commit_is_missed(
    stack: Stack, own_home: OwnHome, steps: list[tuple[str, Any, Any, Any]]
) -> None:
    """Writers commit in any order while a client polls: it ends with what the database has."""
    with ExitStack() as open_now:
        _, other = open_now.enter_context(another_circuit(own_home))
        registers = [own_home.register, other]
        own_home.admin.execute(
            "delete from flows.register_interval_hh where register_id = any(%s)", (registers,)
        )
        own_home.admin.execute("call flows.follow()")
        writers = [
            open_now.enter_context(psycopg.connect(stack.contract["database_url"]))
            for _ in registers
        ]
        poller = Poller(own_home.client)
        poller.poll()
        written: dict[str, int] = {}
        came: dict[str, int] = {}

        def poll() -> None:
            own_home.admin.execute("call flows.follow()")
            for start in poller.poll():
                came[start] = came.get(start, 0) + 1

        for kind, writer, slot, kwh in steps:
            if kind == "write":
                at = START + slot * HALF_HOUR
                writers[writer].execute(WRITTEN, (registers[writer], at, kwh))
                written[at.isoformat()] = written.get(at.isoformat(), 0) + 1
            elif kind == "commit":
                writers[writer].commit()
            else:
                poll()
        for connection in writers:
            connection.commit()
        poll()
        whole = Poller(own_home.client)
        whole.poll()
        assert poller.figures() == whole.figures()
        assert all(came[start] <= written.get(start, 0) for start in came)
        poll()
        assert sum(came.values()) <= sum(written.values())


def keyring(secret: bytes) -> Keyring:
    """Return the keyring of a gateway whose database has a secret."""
    found = Keyring([])
    found.update(AuthState(time.monotonic(), secret=secret))
    return found


KEYS = keyring(b"s" * 32)
SEEN = SeenChanges("7123/1", "100:105:101,104")


def token_of(words: bytes) -> str:
    """Return a token as a caller might forge it."""
    return base64.urlsafe_b64encode(words).decode().rstrip("=")


@pytest.mark.parametrize(
    "token",
    [
        "x", "====", "\u00e9", SEEN.token(KEYS)[:-4], *(token_of(words) for words in (
            b"[]", b"{}", b"null", b"[1,2]", b'["7/1"]', b'["7/1","1:2"]', b'["7/1","1:2:1;x"]',
            b'["x","1:2:"]', bytes(16), bytes(256), bytes(273), KEYS.seal(b"[]", b"ETag"),
        )),
    ],
)  # fmt: skip
def test_a_forged_token_is_the_callers_fault(token: str) -> None:
    with pytest.raises(Unprocessable, match="next_changes"):
        SeenChanges.read(token, KEYS)


def test_a_token_reads_as_it_was_written() -> None:
    running = ",".join(str(10**18 + n) for n in range(200))
    for seen in (SEEN, SeenChanges("7123/1", f"{10**18}:{10**18 + 200}:{running}")):
        assert SeenChanges.read(seen.token(KEYS), KEYS) == seen


def test_80_a_token_tells_whether_its_transactions_are_the_same_and_nothing_else() -> None:
    tokens = [
        SeenChanges("7123/1", snapshot).token(KEYS)
        for snapshot in ("100:105:101,104", "100:106:101,104", "7:9:", "9000000:9000099:9000001")
    ]
    assert SEEN.token(KEYS) == tokens[0]
    assert len({len(token) for token in tokens}) == 1
    sealed = [base64.urlsafe_b64decode(token + "==") for token in tokens]
    # No byte of two tokens is the same but by chance.
    assert all(
        sum(x == y for x, y in zip(one, other, strict=True)) < 16
        for one, other in combinations(sealed, 2)
    )


@pytest.mark.parametrize(
    "token",
    [
        SEEN.token(keyring(b"t" * 32)),  # of another database
        token_of(bytes(272)),
        token_of(b'["7123/1","100:105:101,104"]'),  # of a version before tokens were encrypted
    ],
)
def test_80_a_token_that_is_not_the_databases_tells_nothing_of_its_transactions(token: str) -> None:
    assert SeenChanges.read(token, KEYS) is None


def test_80_an_etag_cannot_be_made_of_the_numbers_of_changes() -> None:
    def tag(version: str, keys: Keyring) -> str:
        request = SimpleNamespace(
            caller=SimpleNamespace(role="flows", esco=UUID(int=1)), format=Format("json"),
            services=SimpleNamespace(keys=keys), request=SimpleNamespace(query_params={}),
            fingerprint="f",
        )  # fmt: skip
        seen = DataVersion(version, None, False, None)
        report = RenderedReport(cast(Any, None), {})
        return response_headers(cast(ReportRequest, request), seen, report)["ETag"]

    assert tag("1-1-1", KEYS) == tag("1-1-1", keyring(b"s" * 32))
    assert tag("1-1-1", KEYS) != tag("1-2-1", KEYS)
    assert tag("1-1-1", KEYS) != tag("1-1-1", keyring(b"t" * 32))


def test_a_token_of_another_cluster_gets_everything(stack: Stack, own_home: OwnHome) -> None:
    own_home.read(START, START + timedelta(days=1))
    body = own_home.client.get("/v1/energy", params=PERIOD).json()
    with psycopg.connect(stack.contract["database_url"]) as admin:
        ((secret,),) = admin.execute("select key from gateway.shared_secret").fetchall()
    keys = keyring(secret)
    seen = SeenChanges.read(body["next_changes"], keys)
    assert seen is not None
    for other, count in (
        (seen.token(keys), 0),
        (SeenChanges(f"{seen.cluster}9", seen.snapshot).token(keys), 48),
        (seen.token(KEYS), 48),
        (token_of(f'["{seen.cluster}","{seen.snapshot}"]'.encode()), 48),
    ):
        answer = own_home.client.get("/v1/energy", params=PERIOD | {"changes": other})
        assert len(answer.json()["rows"]) == count
    refused = own_home.client.get("/v1/energy", params=PERIOD | {"changes": "zzz"})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["parameter"] == "changes"


def test_80_gateways_of_one_database_read_one_anothers_tokens(
    stack: Stack, own_home: OwnHome
) -> None:
    own_home.read(START, START + timedelta(days=1))
    first = own_home.client.get("/v1/energy", params=PERIOD)
    with another_gateway(stack) as other:
        url = f"{other.contract['base_url']}/v1/energy"
        headers = dict(own_home.client.headers)
        second = httpx.get(url, params=PERIOD, headers=headers)
        assert second.headers["etag"] == first.headers["etag"]
        assert second.json()["next_changes"] == first.json()["next_changes"]
        asked = PERIOD | {"changes": first.json()["next_changes"]}
        assert httpx.get(url, params=asked, headers=headers).json()["rows"] == []
