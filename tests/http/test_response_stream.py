"""A request is cancelled only if its client disconnects; its own errors are raised unchanged."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from app.errors import NotFound, TooSlow
from app.http import response_stream
from app.http.response_stream import ClientGone, ResponseStream


@pytest.fixture(autouse=True)
def watched_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_stream, "WATCH_AFTER_SECONDS", 0.0)


async def stay() -> Any:
    """Act as a client that sends nothing more and stays connected."""
    await asyncio.Event().wait()


async def leave() -> Any:
    """Act as a client that disconnects."""
    return {"type": "http.disconnect"}


async def stall() -> Any:
    """Act as a client whose body stalls."""
    raise TooSlow


async def send(message: Any) -> None:
    del message


async def run(receive: Callable[[], Awaitable[Any]], work: Awaitable[Any]) -> Any:
    """Do the work of a request with a client that acts as `receive`."""
    async with ResponseStream({}, receive, send, 1.0):
        return await work


def test_a_client_that_leaves_ends_the_work_and_cancels_nothing_else() -> None:
    async def request() -> str:
        with pytest.raises(ClientGone):
            await run(leave, asyncio.sleep(30))
        task = asyncio.current_task()
        assert task
        assert task.cancelling() == 0
        await asyncio.sleep(0.01)  # no cancellation must be pending
        return "done"

    assert asyncio.run(request()) == "done"


@pytest.mark.parametrize("whole", [True, False])
def test_the_disconnect_that_follows_a_response_cancels_nothing(whole: bool) -> None:
    """The server reports it once the response is complete; its connection is returned then."""

    async def request() -> str:
        ended = asyncio.Event()

        async def leave_at_the_end() -> Any:
            await ended.wait()
            return {"type": "http.disconnect"}

        async def note(message: Any) -> None:
            if message["type"] == "http.response.body":
                ended.set()

        stream = ResponseStream({"method": "GET"}, leave_at_the_end, note, 1.0)
        async with stream:
            await asyncio.sleep(0.01)  # now it is watched
            if whole:
                await stream.answer(200, [], b"[]")
            else:
                await stream.start(200, [])
                await stream.end()
            await asyncio.sleep(0.01)
            return "returned"

    assert asyncio.run(request()) == "returned"


def test_a_client_that_stays_gets_the_result() -> None:
    for receive in (stay, stall):
        assert asyncio.run(run(receive, asyncio.sleep(0.02, "rows"))) == "rows"


def test_an_error_of_the_request_is_raised_as_it_is() -> None:
    async def fail(seconds: float) -> None:
        await asyncio.sleep(seconds)
        raise NotFound("There is no such site.")

    for seconds in (0.0, 0.02):
        with pytest.raises(NotFound, match="site"):
            asyncio.run(run(stay, fail(seconds)))


def test_a_cancellation_from_outside_is_not_taken_for_a_client_that_left() -> None:
    async def request() -> None:
        task = asyncio.create_task(run(stay, asyncio.sleep(30)))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(request())


def test_a_cancellation_from_outside_counts_beside_a_client_that_left() -> None:
    async def request() -> None:
        task = asyncio.create_task(run(stay, cancelled_while_leaving()))
        await asyncio.wait([task])
        assert task.cancelled()

    async def cancelled_while_leaving() -> None:
        task = asyncio.current_task()
        assert task
        task.cancel()
        await asyncio.sleep(30)

    asyncio.run(request())
