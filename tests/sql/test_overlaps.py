"""A register is on a circuit once at a time: a mapping that overlaps another is refused."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import psycopg
import pytest

from tests.conftest import Stack, wait_until

START, END = "2021-07-01T00:00:00+00:00", "2021-07-03T00:00:00+00:00"
MAP = """
    insert into flows.circuit_register (circuit, register, start_time, end_time)
    values (%s, %s, %s, %s)
"""


@dataclass(frozen=True)
class Pair:
    """Two registers of an ESCO, and a circuit that the first is mapped to from `START` to `END`."""

    url: str
    circuit: str
    registers: list[str]

    def row(self, start: str, end: str | None) -> dict[str, str | None]:
        """Return a mapping of the first register."""
        return {"circuit": self.circuit, "register": self.registers[0], "start_time": start,
                "end_time": end}  # fmt: skip


@pytest.fixture
def pair(stack: Stack) -> Iterator[Pair]:
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as admin:
        esco = stack.contract["escos"]["wlce"]["id"]
        ((circuit,),) = admin.execute(
            "insert into flows.circuits (type, name, esco) values ('power', 'Once', %s)"
            " returning id::text", (esco,)
        ).fetchall()  # fmt: skip
        rows = admin.execute(
            "select register_id::text from flows.meter_registers where esco = %s"
            " order by 1 limit 2", (esco,)
        ).fetchall()  # fmt: skip
        registers = [row[0] for row in rows]
        admin.execute(MAP, (circuit, registers[0], START, END))
        yield Pair(stack.contract["database_url"], circuit, registers)
        admin.execute("delete from flows.circuit_register where circuit = %s", (circuit,))
        admin.execute("delete from flows.circuits where id = %s", (circuit,))


@pytest.fixture
def writer(stack: Stack) -> Iterator[httpx.Client]:
    with stack.client("wlce", "write") as client:
        yield client


def is_refused(answer: httpx.Response, pair: Pair, start: str, end: str | None) -> bool:
    """Return whether an answer says which mapping is in the way."""
    assert answer.status_code == 409, answer.text
    told = answer.json()
    times = f"from {start[:19]}Z" + (f" to {end[:19]}Z" if end else " on")
    assert told["message"] == (
        f"The register {pair.registers[0]} is mapped to the circuit {pair.circuit} already, {times}"
    )
    assert told["hint"].startswith("Let the earlier mapping end (end_time) where the later one")
    return True


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2021-07-02T00:00:00+00:00", None),
        ("2021-06-01T00:00:00+00:00", None),
        ("2021-06-01T00:00:00+00:00", "2021-07-01T00:30:00+00:00"),
        ("2021-07-01T12:00:00+00:00", "2021-07-02T00:00:00+00:00"),
    ],
    ids=["begins within", "lasts longer", "ends within", "lies within"],
)
def test_a_mapping_that_overlaps_is_refused(
    writer: httpx.Client, pair: Pair, start: str, end: str | None
) -> None:
    answer = writer.post("/rest/v1/circuit_register", json=pair.row(start, end))
    assert is_refused(answer, pair, START, END)
    # So is one among others in the same request, and an upsert.
    rows = [pair.row("2021-01-01Z", "2021-02-01Z"), pair.row(start, end)]
    merging = {"Prefer": "resolution=merge-duplicates"}
    for headers in ({}, merging):
        answer = writer.post("/rest/v1/circuit_register", json=rows, headers=headers)
        assert is_refused(answer, pair, START, END)
    of_circuit = writer.get(f"/rest/v1/circuit_register?circuit=eq.{pair.circuit}").json()
    assert [(row["start_time"], row["end_time"]) for row in of_circuit] == [(START, END)]


def test_what_meets_or_is_of_another_register_or_circuit_is_taken(
    writer: httpx.Client, pair: Pair
) -> None:
    other = pair.row(START, None) | {"register": pair.registers[1]}
    rows = [pair.row(END, None), pair.row("2021-06-01T00:00:00+00:00", START), other]
    answer = writer.post("/rest/v1/circuit_register", json=rows)
    assert answer.status_code == 201, answer.text


def test_a_change_that_makes_an_overlap_is_refused(writer: httpx.Client, pair: Pair) -> None:
    later, end = "2021-07-10T00:00:00+00:00", "2021-07-20T00:00:00+00:00"
    rows = "/rest/v1/circuit_register"
    writer.post(rows, json=pair.row(later, end)).raise_for_status()
    at = f"{rows}?circuit=eq.{pair.circuit}&start_time=eq."
    first, second = (at + start.replace("+", "%2B") for start in (START, later))
    for change in ({"end_time": None}, {"end_time": "2021-07-10T00:30:00Z"}):
        assert is_refused(writer.patch(first, json=change), pair, later, end)
    for change in ({"start_time": "2021-07-02T23:30:00Z"}, {"start_time": "2021-06-01T00:00:00Z"}):
        assert is_refused(writer.patch(second, json=change), pair, START, END)
    merging = {"Prefer": "resolution=merge-duplicates"}
    answer = writer.post(rows, json=pair.row(START, None), headers=merging)
    assert is_refused(answer, pair, later, end)
    # Each may change up to where the other begins or ends, both at once, and in all else.
    for target, change in (
        (first, {"end_time": later, "notes": "longer"}),
        (first, {"end_time": END}),
        (second, {"start_time": END}),
        (f"{rows}?circuit=eq.{pair.circuit}", {"notes": "both"}),
    ):
        answer = writer.patch(target, json=change)
        assert answer.status_code == 204, answer.text


def test_mappings_may_change_places_in_one_statement(pair: Pair) -> None:
    found = (
        "select start_time::date::text, end_time::date::text from flows.circuit_register"
        " where circuit = %s order by 1"
    )
    with psycopg.connect(pair.url) as connection:
        connection.execute(MAP, (pair.circuit, pair.registers[0], END, "2021-07-05Z"))
        # Each is in the other's time until both have moved.
        for step in (1, -1):
            connection.execute(
                "update flows.circuit_register set"
                " start_time = start_time + make_interval(days => %s),"
                " end_time = end_time + make_interval(days => %s) where circuit = %s",
                (step, step, pair.circuit),
            )
        assert connection.execute(found, (pair.circuit,)).fetchall() == [
            ("2021-07-01", "2021-07-03"), ("2021-07-03", "2021-07-05"),
        ]  # fmt: skip


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_the_second_of_two_at_once_waits_for_the_first(pair: Pair, ending: str) -> None:
    heard: list[str | None] = []

    def write() -> None:
        with psycopg.connect(pair.url, application_name="second") as second:
            try:
                second.execute(MAP, (pair.circuit, pair.registers[0], "2021-07-15Z", None))
                heard.append("written")
            except psycopg.DatabaseError as error:
                heard.append(error.sqlstate)

    thread = threading.Thread(target=write)
    waiting = (
        "select count(*) from pg_stat_activity"
        " where application_name = 'second' and wait_event_type = 'Lock'"
    )
    with psycopg.connect(pair.url) as first, psycopg.connect(pair.url, autocommit=True) as watch:
        first.execute(MAP, (pair.circuit, pair.registers[0], "2021-07-10Z", None))
        thread.start()
        wait_until(lambda: watch.execute(waiting).fetchall() == [(1,)])
        first.commit() if ending == "commit" else first.rollback()
        thread.join()
        assert heard == ["PT409" if ending == "commit" else "written"]
        open_ended = (
            "select count(*) from flows.circuit_register where circuit = %s and end_time is null"
        )
        assert watch.execute(open_ended, (pair.circuit,)).fetchall() == [(1,)]
