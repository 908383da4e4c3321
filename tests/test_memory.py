"""A process gives back what it no longer needs, also from between what it does."""

import subprocess
import sys

import pytest

SCRIPT = """
import psutil
from app.memory import give_back, keep_steady

def used():
    return psutil.Process().memory_info().rss

keep_steady()
before = used()
pieces = [bytes(2000) for _ in range(50_000)]
pieces = pieces[-1:]
left = used()
give_back()
print(left - before, used() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has malloc_trim")
def test_what_is_free_below_a_piece_in_use_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True)
    left, given_back = map(int, done.stdout.split())
    assert left > 90_000_000
    assert given_back < 10_000_000
