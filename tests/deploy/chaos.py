"""Kills processes of a deployment at random, as `kill -9` does, under load."""

import random
import time
from collections import Counter
from collections.abc import Callable

import httpx
import psutil

from tests.conftest import wait_until
from tests.deploy.deployment import CADDY, GATEWAYS, REDIS, Deployment
from tests.deploy.load import Load, load, lost

BACKEND = "a session of the database"


def working_process(running: Deployment, name: str) -> psutil.Process | None:
    """Return a service's process, or None if it has ended."""
    guard = running.children[name].pid
    children = psutil.Process(guard).children() if psutil.pid_exists(guard) else []
    return children[0] if children else None


class Chaos:
    """A deployment whose processes are killed, and started again as an engine does."""

    def __init__(self, running: Deployment, seed: int) -> None:
        self._running = running
        self._random = random.Random(seed)  # noqa: S311  (chance is to be repeatable)
        self.kills: Counter[str] = Counter()
        self._targets = ["database", BACKEND, "postgrest", *GATEWAYS]
        self._targets += ["redis"] if REDIS else []
        self._targets += ["caddy"] if CADDY else []
        self._next: list[str] = []

    def run(self, seconds: float, pause: float) -> Load:
        """Kill a process after each pause, for so many seconds; return what requests got.

        The load goes on until everything is well again.
        """
        name = f"chaos-{self._random.random()}"
        with load(self._running, name) as counts:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                if not self._next:  # each in turn, in any order
                    self._next = self._random.sample(self._targets, len(self._targets))
                self._kill(self._next.pop())
                resumed = time.monotonic() + pause
                while time.monotonic() < resumed:
                    self.revive()
                    time.sleep(0.05)
            wait_until(self._well)
        assert not lost(self._running, name, counts)
        return counts

    def _kill(self, target: str) -> None:
        try:
            process = working_process(self._running, "database" if target == BACKEND else target)
            if process and target == BACKEND:
                process = self._session(process)
            if process:
                process.kill()
                self.kills[target] += 1
        except psutil.NoSuchProcess:
            pass  # it ended by itself meanwhile

    def _session(self, database: psutil.Process) -> psutil.Process | None:
        """Return a session of a caller or of the gateway, or None if there is none."""
        found = [one for one in database.children() if "flows" in " ".join(one.cmdline())]
        return self._random.choice(found) if found else None

    def revive(self) -> None:
        """Start again what has ended."""
        for name, child in list(self._running.children.items()):
            if name in self._targets and not child.running:
                self._running.restart(name)

    def _well(self) -> bool:
        self.revive()
        return all(answers_ready(lambda: httpx.get(self._running.url(name, "/ready"), timeout=5))  # noqa: B023
                   for name in GATEWAYS) and self._through_caddy()  # fmt: skip

    def _through_caddy(self) -> bool:
        if not CADDY:
            return True
        with self._running.client() as client:
            return answers_ready(lambda: client.get("/ready"))


def answers_ready(ask: Callable[[], httpx.Response]) -> bool:
    """Return whether a request is answered with 200."""
    try:
        return ask().status_code == 200
    except httpx.TransportError:
        return False


def figures(chaos: Chaos, counts: Load, seconds: float) -> str:
    """Return what happened, a line each."""
    lines = [f"{sum(chaos.kills.values())} kills in {seconds:.0f} s:"]
    lines += [f"  {number:4} {target}" for target, number in sorted(chaos.kills.items())]
    for kind in ("reads", "writes", "tokens"):
        counter: Counter[str] = getattr(counts, kind)
        told = ", ".join(f"{number} {got}" for got, number in counter.most_common())
        lines.append(f"{kind}: {told}")
    lines.append(f"acknowledged: {len(counts.acknowledged)}, of which lost: 0")
    lines.append(f"longest time without a good read: {counts.longest:.1f} s")
    return "\n".join(lines)
