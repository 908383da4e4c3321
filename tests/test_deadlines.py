"""Deadlines are missed in the order in which they were set, and not when they were dropped."""

import asyncio

from app.deadlines import Deadlines


def test_those_that_are_not_dropped_are_missed_in_time() -> None:
    missed: list[str] = []

    async def scenario() -> None:
        deadlines = Deadlines[str](0.05, missed.append)
        for name in ("first", "dropped", "anew"):
            deadlines.set(name)
        deadlines.drop("dropped")
        deadlines.drop("unknown")
        await asyncio.sleep(0.03)
        deadlines.set("anew")
        deadlines.set("last")
        assert deadlines.first == "first"
        await asyncio.sleep(0.03)
        assert missed == ["first"]
        assert len(deadlines) == 2
        await asyncio.sleep(0.04)
        deadlines.set("after")
        await asyncio.sleep(0.07)

    asyncio.run(scenario())
    assert missed == ["first", "anew", "last", "after"]
