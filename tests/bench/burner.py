"""Processes that keep cores busy for a share of the time, and have nothing to do with a stack."""

import math
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

PIECE_SECONDS = 0.1  # of work at a time: as long as a costly query


@contextmanager
def burning(cores: float) -> Iterator[None]:
    """Keep so many cores busy, such as 0.4 of one."""
    number = math.ceil(cores)
    processes = [
        subprocess.Popen([sys.executable, "-m", "tests.bench.burner", str(cores / number)])
        for _ in range(number)
    ]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _burn(share: float) -> None:
    while True:
        started = time.thread_time()
        while (used := time.thread_time() - started) < PIECE_SECONDS:
            pass
        time.sleep(used * (1 / share - 1))


if __name__ == "__main__":
    _burn(float(sys.argv[1]))
