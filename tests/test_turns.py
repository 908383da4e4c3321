"""Places are given first come, first served, and none is lost with who waited for it."""

import asyncio

import pytest

from app.turns import CommonPlaces, NoTurn, Places


async def taken(most_waiting: int = 9, seconds: float = 60) -> Places:
    """Return a single place, which is taken."""
    places = Places(1, most_waiting, seconds)
    await places.take()
    return places


async def queue(places: Places) -> asyncio.Task[None]:
    """Return a task that waits for a place."""
    task = asyncio.create_task(places.take())
    await asyncio.sleep(0)
    return task


def test_who_has_waited_longest_comes_first() -> None:
    async def scenario() -> None:
        places = await taken(most_waiting=2)
        first, second = await queue(places), await queue(places)
        with pytest.raises(NoTurn):
            await places.take()
        places.release()
        await first
        assert not second.done()
        places.release()
        await second

    asyncio.run(scenario())


def test_each_waits_as_long_as_it_may() -> None:
    async def scenario() -> None:
        places = await taken(seconds=0.05)
        first = await queue(places)
        await asyncio.sleep(0.03)
        second = await queue(places)
        with pytest.raises(NoTurn):
            await first
        assert not second.done()
        with pytest.raises(NoTurn):
            await second
        places.release()
        await places.take()

    asyncio.run(scenario())


@pytest.mark.parametrize("comes", [False, True], ids=["before its turn", "as its turn comes"])
def test_who_leaves_keeps_the_place_from_nobody(comes: bool) -> None:
    async def scenario() -> None:
        places = await taken()
        gone, waits = await queue(places), await queue(places)
        if comes:
            places.release()
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        if not comes:
            assert not waits.done()
            places.release()
        await asyncio.wait_for(waits, 1)

    asyncio.run(scenario())


def test_who_leaves_as_its_time_is_over_gives_no_place_back() -> None:
    async def scenario() -> None:
        places = await taken(seconds=0)
        gone = await queue(places)
        asyncio.get_running_loop().call_soon(gone.cancel)
        with pytest.raises((NoTurn, asyncio.CancelledError)):
            await gone
        assert not (await queue(places)).done()

    asyncio.run(scenario())


def test_84_a_key_holds_at_most_twice_as_many_as_it_leaves() -> None:
    async def scenario() -> None:
        common = CommonPlaces(4, seconds=0.02)
        one, other, third = map(common.of, ("one", "other", "third"))
        for place in (one, one, other):
            await place.take()
        for place in (one, other):
            with pytest.raises(NoTurn):
                await place.take()
        for place in (third, common.of("fourth")):  # beyond the last
            await place.take()

    asyncio.run(scenario())


def test_84_who_has_waited_longest_and_may_take_a_common_place_comes_first() -> None:
    async def scenario() -> None:
        common = CommonPlaces(4, seconds=60)
        one, other = common.of("one"), common.of("other")
        for place in (one, one, other):
            await place.take()
        turns = [asyncio.create_task(place.take()) for place in (one, other, other)]
        await asyncio.sleep(0)
        turns[1].cancel()
        await asyncio.sleep(0)
        other.release()
        await asyncio.sleep(0)
        assert [turn.done() for turn in turns] == [False, True, True]
        one.release()
        one.release()
        await turns[0]
        for place in (one, other):
            place.release()
        await asyncio.gather(*(place.take() for place in (one, one)))

    asyncio.run(scenario())
