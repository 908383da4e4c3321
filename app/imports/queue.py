"""A fair queue: each key runs one job at a time, and keys take turns at the places."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

logger = logging.getLogger(__name__)

Job = Callable[[], Awaitable[None]]


class QueueFull(Exception):  # noqa: N818  (callers turn it into a response)
    """There is no room; `of_key` is true if it is the key's own share that is used up."""

    def __init__(self, *, of_key: bool) -> None:
        super().__init__()
        self.of_key = of_key


@dataclass(slots=True)
class _Line:
    """The jobs of a key that wait, the places in the queue that are reserved, and its turn."""

    jobs: deque[Job] = field(default_factory=deque)
    reserved: int = 0
    busy: bool = False


class FairQueue:
    """Runs jobs, at most `running` at a time and one of a key; others wait, up to a number.

    `waiting_of_key` bounds the jobs of one key that wait, `waiting` those of all.
    """

    def __init__(self, running: int, waiting_of_key: int, waiting: int) -> None:
        self._places = running
        self._most_of_key = waiting_of_key
        self._most = waiting
        self._lines: dict[str, _Line] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @contextmanager
    def reserved(self, key: str) -> Iterator[None]:
        """Hold room for one job of the key; QueueFull if there is none."""
        line = self._lines.get(key, _Line())
        if line.reserved + len(line.jobs) >= self._most_of_key:
            raise QueueFull(of_key=True)
        lines = self._lines.values()
        if sum(other.reserved + len(other.jobs) for other in lines) >= self._most:
            raise QueueFull(of_key=False)
        self._lines[key] = line
        line.reserved += 1
        try:
            yield
        finally:
            line.reserved -= 1
            self._forget(key)

    def put(self, key: str, job: Job) -> None:
        """Run a job of the key when it is its turn; call it while room is reserved."""
        self._lines[key].jobs.append(job)
        self._start()

    async def close(self) -> None:
        """Cancel the jobs that run, and forget the others."""
        for line in self._lines.values():
            line.jobs.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self) -> None:
        while len(self._tasks) < self._places:
            ready = (key for key, line in self._lines.items() if line.jobs and not line.busy)
            key = next(ready, None)
            if key is None:
                return
            line = self._lines[key]
            line.busy = True
            task = asyncio.create_task(_run(line.jobs.popleft()))
            self._tasks.add(task)
            task.add_done_callback(partial(self._end, key))

    def _end(self, key: str, task: asyncio.Task[None]) -> None:
        # To the end, so that the other keys come before its next job.
        line = self._lines[key] = self._lines.pop(key)
        line.busy = False
        self._tasks.discard(task)
        self._forget(key)
        self._start()

    def _forget(self, key: str) -> None:
        line = self._lines[key]
        if not (line.jobs or line.reserved or line.busy):
            del self._lines[key]


async def _run(job: Job) -> None:
    try:
        await job()
    except Exception:
        logger.exception("a job of the queue has crashed")
