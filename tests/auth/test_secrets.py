"""Checks of client secrets: fast, the same for everybody, and no client waits for another's."""

import asyncio
import statistics
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress

import httpx
import psycopg
import pytest

from app.auth.throttle import REFUSAL_SECONDS, REVOCATIONS, Flooded, Throttle, Throttled
from app.settings import LimitsSettings
from tests.auth.test_clients import RIGHTS, ask, make
from tests.bench import generator
from tests.bench.tokens import token_request
from tests.conftest import Stack, another_gateway, flows, wait_until

FORGET_DIGEST = "update gateway.client_secret set digest = null where client = %s"
DIGESTS = "select digest from gateway.client_secret where client = %s"


@pytest.fixture(scope="module")
def own(stack: Stack) -> Iterator[Stack]:
    """A gateway of its own, so that throttled guessing does not disturb other tests."""
    with another_gateway(stack, FLOWS_LIMITS_REFUSAL_SECONDS="0.1") as own:
        yield own


@pytest.mark.quiet
def test_57_a_flood_of_one_client_makes_no_other_wait(own: Stack) -> None:
    flooding, victim = (own.contract["escos"][code] for code in ("wlce", "hmce"))

    def seconds() -> float:
        started = time.perf_counter()
        answer = ask(own, victim["client_id"], victim["client_secret"])
        assert answer.status_code == 200, answer.text
        return time.perf_counter() - started

    seconds()
    flood = generator.start(token_request(own, "wlce"), connections=200, seconds=5)
    try:

        def refused() -> httpx.Response | None:
            answer = ask(own, flooding["client_id"], flooding["client_secret"])
            return answer if answer.status_code == 429 else None

        refusal = wait_until(refused)
        waits = [seconds() for _ in range(5)]
    finally:
        statuses = generator.finish(flood).require(200, 429).statuses
    assert statistics.median(waits) < 1, waits
    assert set(statuses) == {"200", "429"}
    assert refusal.json()["error"] == "slow_down"
    assert int(refusal.headers["retry-after"]) >= 1


def test_57_the_clients_of_an_esco_wait_for_one_another() -> None:
    """Whoever may create clients has any number of them."""

    async def tried() -> None:
        throttle = Throttle(LimitsSettings(turn_seconds=0.01))
        for client in ("w1", "w2", "w3", "h1"):
            async with throttle.turn(client, "192.0.2.1") as attempt:
                await attempt.ended(succeeded=True, owner=client[0])
        async with AsyncExitStack() as held:
            for client in ("w1", "w2", "h1", "h1"):
                await held.enter_async_context(throttle.turn(client, "192.0.2.1"))
            for client in ("w3", "h1"):
                with pytest.raises(Flooded):
                    await held.enter_async_context(throttle.turn(client, "192.0.2.1"))
            await held.enter_async_context(throttle.turn("w3", "192.0.2.2"))

    asyncio.run(tried())


def test_57_a_new_secret_takes_no_slow_hash(own: Stack) -> None:
    with psycopg.connect(own.contract["database_url"]) as admin:
        hashes = admin.execute("select hash from gateway.client_secret").fetchall()
    assert hashes
    assert all(made.startswith("$argon2id$v=19$m=64,t=1,p=1$") for (made,) in hashes)


def test_57_a_client_has_a_quota_of_tokens_that_guesses_do_not_use_up() -> None:
    async def taken(throttle: Throttle, client: str, address: str, *, right: bool) -> bool:
        try:
            async with throttle.turn(client, address) as attempt:
                await attempt.ended(succeeded=right)
        except Flooded as flooded:
            return not 1 <= flooded.seconds <= 3600
        return True

    async def tried() -> None:
        throttle = Throttle(LimitsSettings(client="5/hour"))
        await asyncio.gather(*(taken(throttle, "w", f"10.0.0.{n}", right=False) for n in range(9)))
        assert [await taken(throttle, "w", "192.0.2.1", right=True) for _ in range(6)] == [
            True, True, True, True, True, False,
        ]  # fmt: skip
        assert not await taken(throttle, "w", "192.0.2.2", right=True)
        assert await taken(throttle, "h", "192.0.2.1", right=True)
        # Where the client is known, its secret is looked at no more.
        looked = []
        for address in ("192.0.2.1", "192.0.2.3"):
            with suppress(Flooded):
                async with throttle.turn("w", address):
                    looked.append(address)
        assert looked == ["192.0.2.3"]

    asyncio.run(tried())


def test_57_an_older_secret_works_and_is_converted_by_its_next_use(own: Stack) -> None:
    client = make(own, "old", "--esco", "wlce", *RIGHTS["read"])
    second = flows(own, "client", "rotate-secret", client["id"])
    assert second.stdout
    with psycopg.connect(own.contract["database_url"], autocommit=True) as admin:
        admin.execute(FORGET_DIGEST, (client["id"],))
        assert ask(own, client["id"], "fls_wrong").status_code == 401
        assert admin.execute(DIGESTS, (client["id"],)).fetchall() == [(None,), (None,)]
        assert ask(own, client["id"], client["client_secret"]).status_code == 200
        digests = [digest for (digest,) in admin.execute(DIGESTS, (client["id"],))]
        assert sorted(map(bool, digests)) == [False, True]
        # The slow hash is not looked at again, and a digest vouches for its own secret alone.
        admin.execute(
            "update gateway.client_secret set hash = '' where client = %s", (client["id"],)
        )
        assert ask(own, client["id"], client["client_secret"]).status_code == 200
        assert ask(own, client["id"], "fls_wrong").status_code == 401


@pytest.mark.quiet
def test_57_refusals_take_the_same_time_whoever_is_named(own: Stack) -> None:
    new = make(own, "new", "--esco", "wlce", *RIGHTS["read"])
    old = make(own, "old", "--esco", "wlce", *RIGHTS["read"])
    with psycopg.connect(own.contract["database_url"], autocommit=True) as admin:
        admin.execute(FORGET_DIGEST, (old["id"],))
    shortest = {}
    for name in (new["id"], old["id"], "flc_unknown"):
        times = []
        for _ in range(4):
            started = time.perf_counter()
            assert ask(own, name, "fls_wrong").status_code == 401
            times.append(time.perf_counter() - started)
        shortest[name] = min(times)
    assert min(shortest.values()) >= REFUSAL_SECONDS
    assert max(shortest.values()) < REFUSAL_SECONDS + 0.3, shortest


def test_53_an_esco_revokes_a_bounded_number_of_tokens() -> None:
    async def revoke() -> None:
        throttle = Throttle(LimitsSettings())
        for _ in range(REVOCATIONS.amount):
            await throttle.count_revocation("w")
        with pytest.raises(Throttled) as refused:
            await throttle.count_revocation("w")
        assert 0 < refused.value.seconds <= 24 * 3600
        await throttle.count_revocation("h")

    asyncio.run(revoke())
