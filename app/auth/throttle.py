"""Throttling at `/auth`: of guesses per client and address, and of each client's own requests."""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMinute, parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from app.settings import LimitsSettings
from app.turns import NoTurn, Turns

# Wrong secrets count first against client and address together, so that a client cannot be locked
# out from another address.
PER_PAIR = RateLimitItemPerMinute(10)
PER_ADDRESS = RateLimitItemPerMinute(30)
PER_CLIENT = RateLimitItemPerMinute(100)
# Each process reads all revocations of the tokens that live, for a day at most, every second.
REVOCATIONS = RateLimitItemPerDay(1000)

# Requests that are worked on at a time for each ESCO and address, and that may wait behind them; of
# a client that has not been authenticated yet, for the client. Whoever floods waits for itself.
AT_A_TIME = 2
MOST_WAITING = 100
# A turn lasts no less. A token takes a third of that of the thread that answers everybody else.
LEAST_TURN_SECONDS = 0.009
HASHED_AT_A_TIME = 2  # older secrets, which are checked by Argon2
# Every refusal takes this long, whatever was checked for it.
REFUSAL_SECONDS = 0.5
TRUSTED_PAIRS = 10_000
HOUSEHOLD_BITS = 64  # of an IPv6 address; whoever has one has all addresses with this prefix


class Throttled(Exception):  # noqa: N818  (an answer, not a fault)
    """There were too many wrong secrets; the next attempt is accepted in `seconds`."""

    def __init__(self, seconds: int) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Flooded(Throttled):
    """The client itself sends too many requests, with the right secret or without."""


class Throttle:
    """Counts attempts in this process and limits how many of a client are served at a time."""

    def __init__(self, limits: LimitsSettings) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._quota = parse(limits.client)
        self.hashing = asyncio.Semaphore(HASHED_AT_A_TIME)
        self._turns = Turns(AT_A_TIME, MOST_WAITING, limits.turn_seconds)
        self._trusted: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._owners: OrderedDict[str, str] = OrderedDict()

    @asynccontextmanager
    async def turn(self, client_id: str, address: str) -> AsyncIterator["Attempt"]:
        """Hold one of the client's turns for its whole request.

        Throttled if there were too many wrong secrets, Flooded if the client has too many requests
        at a time. The limit is checked again when the turn comes, so that a thousand guesses sent
        at once are not all checked.
        """
        attempt = Attempt(self, client_id, counted_address(address), time.monotonic())
        await self._check(attempt)
        try:
            # The clients of an ESCO wait for one another: it may have any number of them.
            owner = self._owners.get(client_id, client_id)
            places = self._turns.of(f"{owner} {attempt.address}")
            await places.take()
        except NoTurn:
            raise Flooded(1) from None
        began = time.monotonic()
        try:
            await self._check(attempt)
            yield attempt
        finally:
            rest = began + LEAST_TURN_SECONDS - time.monotonic()
            asyncio.get_running_loop().call_later(max(0.0, rest), places.release)

    async def _check(self, attempt: "Attempt") -> None:
        # From where the client is known, no secret is looked at beyond its quota.
        if (attempt.client_id, attempt.address) in self._trusted and not await self._limiter.test(
            self._quota, "quota", attempt.client_id
        ):
            raise await self._flooded(attempt)
        waits = []
        for item, key in self._counts(attempt):
            if not await self._limiter.test(item, *key):
                window = await self._limiter.get_window_stats(item, *key)
                waits.append(window.reset_time - time.time())
        if waits:
            raise Throttled(max(1, math.ceil(max(waits))))

    async def ended(self, attempt: "Attempt", *, succeeded: bool, owner: str | None = None) -> None:
        """Count the attempt; remember address and owner of a successful one, delay a failed one.

        Flooded if the client has used up its quota of requests. Only successful attempts count
        against it, so that nobody else can use it up.
        """
        pair = (attempt.client_id, attempt.address)
        if succeeded:
            self._trusted[pair] = None
            self._trusted.move_to_end(pair)
            if len(self._trusted) > TRUSTED_PAIRS:
                self._trusted.popitem(last=False)
            if owner:
                self._owners[attempt.client_id] = owner
                self._owners.move_to_end(attempt.client_id)
                if len(self._owners) > TRUSTED_PAIRS:
                    self._owners.popitem(last=False)
            if not await self._limiter.hit(self._quota, "quota", attempt.client_id):
                raise await self._flooded(attempt)
            return
        for item, key in self._counts(attempt):
            await self._limiter.hit(item, *key)
        await asyncio.sleep(attempt.started + REFUSAL_SECONDS - time.monotonic())

    async def count_revocation(self, owner: str) -> None:
        """Count a token that an ESCO revokes; Throttled if it has revoked too many within a day."""
        if not await self._limiter.hit(REVOCATIONS, "revocations", owner):
            window = await self._limiter.get_window_stats(REVOCATIONS, "revocations", owner)
            raise Throttled(max(1, math.ceil(window.reset_time - time.time())))

    async def _flooded(self, attempt: "Attempt") -> Flooded:
        window = await self._limiter.get_window_stats(self._quota, "quota", attempt.client_id)
        return Flooded(max(1, math.ceil(window.reset_time - time.time())))

    def _counts(self, attempt: "Attempt") -> list[tuple[RateLimitItem, tuple[str, ...]]]:
        client_id, address = attempt.client_id, attempt.address
        counts: list[tuple[RateLimitItem, tuple[str, ...]]] = [
            (PER_PAIR, ("pair", client_id, address)),
            (PER_ADDRESS, ("address", address)),
        ]
        # Guessing from many addresses must not lock the client out at the addresses it uses.
        if (client_id, address) not in self._trusted:
            counts.append((PER_CLIENT, ("client", client_id)))
        return counts


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt to authenticate as a client, from one address; `started` is monotonic, in s."""

    throttle: Throttle
    client_id: str
    address: str
    started: float

    async def ended(self, *, succeeded: bool, owner: str | None = None) -> None:
        """Record the outcome, and the ESCO of a client that was authenticated."""
        await self.throttle.ended(self, succeeded=succeeded, owner=owner)


def counted_address(address: str) -> str:
    """Return the address or, for IPv6, its /64 network, which counts as one."""
    try:
        known = ip_address(address)
    except ValueError:
        return address
    if not isinstance(known, IPv6Address):
        return address
    if known.ipv4_mapped:
        return str(known.ipv4_mapped)
    return str(ip_network((int(known), HOUSEHOLD_BITS), strict=False))
