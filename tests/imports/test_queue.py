"""The queue of imports: one at a time of a key, keys by turns, and no more than fit."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import pytest

from app.imports.queue import FairQueue, QueueFull

MANY = 100


class Bench:
    """Jobs that note when they begin, and end when they are told to."""

    def __init__(self, queue: FairQueue) -> None:
        self.queue = queue
        self.begun: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}

    def put(self, key: str, *names: str) -> None:
        for name in names:
            self._ends[name] = asyncio.Event()
            with self.queue.reserved(key):
                self.queue.put(key, self._job(name))

    def _job(self, name: str) -> Callable[[], Awaitable[None]]:
        async def job() -> None:
            self.begun.append(name)
            await self._ends[name].wait()

        return job

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await settle()


async def settle() -> None:
    """Let all tasks run until each waits for something."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_one_key_never_takes_two_places() -> None:
    async def scenario() -> None:
        bench = Bench(FairQueue(2, MANY, MANY))
        bench.put("a", "a1", "a2", "a3")
        await settle()
        assert bench.begun == ["a1"]
        bench.put("b", "b1")
        await settle()
        assert bench.begun == ["a1", "b1"], "the other begins at once"
        await bench.end("a1")
        assert bench.begun == ["a1", "b1", "a2"]
        await bench.queue.close()

    asyncio.run(scenario())


def test_keys_take_turns() -> None:
    async def scenario() -> None:
        bench = Bench(FairQueue(1, MANY, MANY))
        bench.put("a", "a1", "a2", "a3")
        bench.put("b", "b1", "b2")
        bench.put("c", "c1")
        await settle()
        for name in ("a1", "b1", "c1", "a2", "b2", "a3"):
            assert bench.begun[-1] == name
            await bench.end(name)
        await bench.queue.close()

    asyncio.run(scenario())


def test_a_job_that_fails_makes_room_for_the_next() -> None:
    async def scenario() -> None:
        bench = Bench(FairQueue(1, MANY, MANY))

        async def fail() -> None:
            raise RuntimeError

        with bench.queue.reserved("a"):
            bench.queue.put("a", fail)
        bench.put("a", "a2")
        await settle()
        assert bench.begun == ["a2"]
        await bench.queue.close()

    asyncio.run(scenario())


def test_waiting_jobs_and_reservations_count() -> None:
    async def scenario() -> None:
        bench = Bench(FairQueue(1, 2, 3))
        bench.put("a", "a1")
        await settle()
        bench.put("a", "a2")
        with ExitStack() as held:
            held.enter_context(bench.queue.reserved("a"))
            with pytest.raises(QueueFull) as own, bench.queue.reserved("a"):
                pass
            assert own.value.of_key
            held.enter_context(bench.queue.reserved("b"))
            with pytest.raises(QueueFull) as every, bench.queue.reserved("c"):
                pass
            assert not every.value.of_key
        with bench.queue.reserved("a"), bench.queue.reserved("c"):
            pass
        await bench.queue.close()

    asyncio.run(scenario())


def test_closing_ends_those_that_run_and_begins_no_other() -> None:
    async def scenario() -> None:
        bench = Bench(FairQueue(1, MANY, MANY))
        bench.put("a", "a1", "a2")
        await settle()
        await bench.queue.close()
        await settle()
        assert bench.begun == ["a1"]

    asyncio.run(scenario())
