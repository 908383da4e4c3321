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


IN_THREADS = """
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
from app.memory import keep_steady

if sys.argv[1] == "steady":
    keep_steady()
import polars as pl

def used():
    memory = psutil.Process().memory_info()
    return memory.rss - memory.shared

def work(_):
    texts = [str(number) * 5 for number in range(3000)]
    rows = pl.DataFrame({"text": texts, "gaps": [[1, 2, 3]] * 3000})
    rows.explode("gaps").group_by("text").agg(pl.col("gaps")).write_json()

work(0)
before = used()
with ThreadPoolExecutor(8) as threads:
    list(threads.map(work, range(100)))
    time.sleep(1)  # what is free stays with the allocator for a moment
    work(0)
    print(used() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only there Polars uses jemalloc")
def test_no_thread_keeps_memory_for_its_next_report() -> None:
    grown = {}
    for kind in ("steady", "as it is"):
        command = [sys.executable, "-c", IN_THREADS, kind]
        grown[kind] = int(subprocess.run(command, capture_output=True, check=True).stdout)
    assert grown["steady"] < 0.7 * grown["as it is"]
