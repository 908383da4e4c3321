"""ESCOs share the queue of what follows changes: the small never wait for the large (78)."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.conftest import Stack
from tests.sql.test_aggregates import followed

Admin = psycopg.Connection[Any]
# Each statement moves the whole history of every mapping of an ESCO, which ends as it was.
ALL_MAPPINGS = """
    update flows.circuit_register
    set end_time = case when {} then start_time + interval '1 hour' end
    where esco = %s
        and (end_time is null or end_time = start_time + interval '1 hour')
"""
WAITING = """
    insert into flows.change (esco, kind, period, registers, circuits)
    select %s, 'mapping', tstzrange(%s, %s), '{}', array_fill(gen_random_uuid(), array[%s])
    returning id
"""


@pytest.fixture
def large(stack: Stack) -> UUID:
    """The ESCO that changes much."""
    return UUID(stack.contract["escos"]["wlce"]["id"])


@pytest.fixture
def small(stack: Stack) -> UUID:
    """The ESCO that changes little."""
    return UUID(stack.contract["escos"]["hmce"]["id"])


@dataclass(frozen=True)
class HalfHour:
    """A half-hour, at the beginning of a day, that a register has not written yet."""

    register: UUID
    circuit: UUID
    start: datetime

    def write(self, connection: Admin) -> None:
        """Write it."""
        connection.execute(
            'insert into flows.register_interval_hh (register_id, "timestamp", import_kwh)'
            " values (%s, %s, 1)",
            (self.register, self.start),
        )


@pytest.fixture
def late(stack: Stack, admin: Admin, small: UUID) -> Iterator[HalfHour]:
    """A half-hour of the small ESCO from before any other, while it is mapped; it is removed."""
    found = admin.execute(
        "select m.register, m.circuit, date_trunc('day', x.available_from, 'UTC') - interval '30 d'"
        " from flows.circuit_register as m join flows.register_extent as x"
        " on x.register_id = m.register and m.start_time < x.available_from - interval '40 days'"
        " where m.esco = %s and m.end_time is null order by 1, 2 limit 1",
        (small,),
    ).fetchone()
    assert found
    late = HalfHour(*found)
    yield late
    admin.rollback()
    admin.execute(
        'delete from flows.register_interval_hh where register_id = %s and "timestamp" = %s',
        (late.register, late.start),
    )
    assert followed(stack, admin, [late.circuit]) == []


def test_78_no_sum_waits_for_an_open_change_of_all_mappings(
    stack: Stack, admin: Admin, large: UUID, late: HalfHour
) -> None:
    """Whatever locks the large statement holds until its transaction ends."""
    admin.execute(ALL_MAPPINGS.format("true").encode(), (large,))
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as other:
        other.execute("set lock_timeout = '2s'")
        late.write(other)
        other.execute("call flows.follow()")
        day = other.execute(
            "select total_import_kwh from flows.circuit_interval_daily"
            " where circuit_id = %s and day = %s",
            (late.circuit, late.start),
        ).fetchone()
    assert day == (1,)


def test_78_what_is_small_is_followed_with_the_first_share(
    stack: Stack, admin: Admin, engine: str, large: UUID, small: UUID, late: HalfHour
) -> None:
    """Though it comes last, and what is large takes several shares."""
    if engine != "timescale":
        pytest.skip("plain PostgreSQL sums within the statement: there is no queue")
    ((last,),) = admin.execute("select coalesce(max(id), 0) from flows.change").fetchall()
    for number in range(60):
        admin.execute(ALL_MAPPINGS.format(number % 2 == 0).encode(), (large,))
    late.write(admin)
    assert followed(stack, admin) == []
    # All that one share followed was noted as such by one transaction.
    shares = dict(
        admin.execute(
            "select esco, array_agg(distinct xmin::text::bigint order by xmin::text::bigint)"
            " from flows.change where id > %s and kind in ('mapping', 'reading') group by 1",
            (last,),
        ).fetchall()
    )
    assert len(shares[large]) > 1
    assert shares[small] == shares[large][:1]


def test_78_shares_are_equal_and_none_is_left_out(
    admin: Admin, engine: str, large: UUID, small: UUID, stack: Stack
) -> None:
    """Each ESCO's changes in their order, and of all of them what is least first."""
    if engine != "timescale":
        pytest.skip("plain PostgreSQL sums within the statement: there is no queue")
    another = UUID(stack.contract["escos"]["bfce"]["id"])
    admin.execute("update flows.change set followed_at = now() where followed_at is null")
    ((first, now),) = admin.execute(
        "select min(available_from), now() from flows.register_extent"
    ).fetchall()
    days = timedelta(days=10)
    assert now - first > days

    def wait(esco: UUID, circuits: int) -> int:
        ((made,),) = admin.execute(WAITING, (esco, now - days, now, circuits)).fetchall()
        return int(made)

    # In days of circuits: 100 changes of 2,000, twenty of 500, one of 10.
    waiting = {large: [wait(large, 200) for _ in range(100)]}
    waiting[another] = [wait(another, 50) for _ in range(20)]
    waiting[small] = [wait(small, 1)]
    shares: list[list[int]] = []
    while True:
        ((taken,),) = admin.execute("select flows.next_changes(20000)").fetchall()
        if not taken:
            break
        shares.append(taken)
        admin.execute("update flows.change set followed_at = now() where id = any(%s)", (taken,))
    counts = [
        {esco: len(set(share) & set(ids)) for esco, ids in waiting.items()} for share in shares
    ]
    # Half of the budget for each while two have work.
    assert counts[0] == {large: 5, another: 20, small: 1}, counts
    assert [count[large] for count in counts[1:]] == [10] * 9 + [5], counts
    for ids in waiting.values():
        assert [change for share in shares for change in share if change in ids] == ids
