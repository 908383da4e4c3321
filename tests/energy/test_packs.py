"""Rows written in packs equal rows written one by one."""

import random
from datetime import UTC, datetime
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.energy.energy import EnergyGrid, Pack
from app.energy.formats import Format
from app.energy.groups import Groups, Mapping, gather
from app.energy.intervals import Granularity, half_hour_from, split
from app.energy.query import MOST_METERS, SEPARATOR, Page

LONDON = ZoneInfo("Europe/London")
START, END = datetime(2024, 3, 29, tzinfo=UTC), datetime(2024, 4, 2, tzinfo=UTC)
KWH = ['"import_kwh":1.5,"export_kwh":0', '"import_kwh":null,"export_kwh":2']


def groups(count: int, change: datetime) -> Groups:
    """Return `count` groups, of one register, two, and so on; the last one begins at `change`."""
    first, last = half_hour_from(START), half_hour_from(END)
    begins = [first] * (count - 1) + [half_hour_from(change)]
    return gather(
        Mapping(str(UUID(int=n)), register, register, begin, last, frozenset({(str(n),)}))
        for n, begin in enumerate(begins)
        for register in (str(UUID(int=10 * n + more)) for more in range(n + 1))
    )


@given(
    data=st.data(),
    count=st.integers(1, 4),
    granularity=st.sampled_from(["PT30M", "P1D"]),
    change=st.sampled_from([START, datetime(2024, 3, 30, 12, tzinfo=UTC)]),
    packed=st.integers(1, 60),
)
def test_packs_equal_rows_written_one_by_one(
    data: st.DataObject, count: int, granularity: Granularity, change: datetime, packed: int
) -> None:
    parts, of = split(granularity, LONDON, START, END), groups(count, change)
    page = Page(0, len(parts) * count)
    # Not `st.randoms`: each call of that is a draw, hundreds in an example.
    chance = random.Random(data.draw(st.integers(0, 2**32)))  # noqa: S311
    gaps, others = (
        data.draw(st.sampled_from([0, 0.1, 0.9])),
        data.draw(st.sampled_from([0, 0.1, 1])),
    )
    found = {
        place: (
            chance.randrange(50) if chance.random() < others else 48,
            chance.randrange(4) if chance.random() < others else 1,
            chance.choice(KWH),
        )
        for place in range(page.last)
        if chance.random() >= gaps
    }
    packs: list[Pack] = []
    for start in range(0, page.last, packed):
        places = [place for place in range(start, min(start + packed, page.last)) if place in found]
        if places:
            if data.draw(st.booleans()):
                chance.shuffle(places)
            rows = [found[place] for place in places]
            registers, seen = ([row[0] for row in rows], [row[1] * MOST_METERS + 1 for row in rows])
            packs.append((
                places,
                min(registers), registers if len({*registers}) > 1 else None,
                min(seen), seen if len({*seen}) > 1 else None,
                SEPARATOR.join(row[2] for row in rows),
            ))  # fmt: skip
    whole, single = (
        EnergyGrid(of, parts, LONDON, Format("json"), ["circuit"], page) for _ in range(2)
    )
    written = [row for rows in whole.unpack(packs) for row in rows]
    written += [row for rows in whole.finish() for row in rows]
    one_by_one = [
        (place, (registers, present * MOST_METERS + 1), kwh)
        for place, (registers, present, kwh) in sorted(found.items())
    ]
    expected = [row for rows in single.feed(one_by_one) for row in rows]
    expected += [row for rows in single.finish() for row in rows]
    assert written == expected
    assert len(written) == page.last


@pytest.mark.parametrize("places", [[0, 0, 2], [0, 2, -1], [0, 2, 193], [0, 2, 5, 4, 2]])
def test_a_duplicate_or_foreign_row_index_is_an_error(places: list[int]) -> None:
    parts = split("PT30M", LONDON, START, END)
    grid = EnergyGrid(
        groups(1, START), parts, LONDON, Format("json"), ["circuit"], Page(0, len(parts))
    )
    assert len(parts) == 192
    pack = (places, 48, None, MOST_METERS + 1, None, SEPARATOR.join(KWH[:1] * len(places)))
    with pytest.raises(RuntimeError, match="outside the page"):
        [*grid.unpack([pack])]
