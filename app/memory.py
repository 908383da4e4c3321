"""The process's memory: what is free is given back to the system.

Other C libraries than glibc have no such functions.
"""

import ctypes
import os
from contextlib import suppress

# Of <malloc.h>, and bytes from which memory is taken from the system and given back at once.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, RETURNED_BYTES = -1, -3, 2**18


# Settings of jemalloc, which Polars has for itself and reads as it is imported.
OF_POLARS = "_RJEM_MALLOC_CONF"


def keep_steady() -> None:
    """Give large pieces of memory back as soon as they are free.

    glibc raises its thresholds with each large piece, so that a process which once wrote a large
    response would keep tens of megabytes. Polars' allocator keeps what is free for the thread that
    had it: reports run in several threads by turns, and each would keep some.
    """
    os.environ[OF_POLARS] = ",".join(["tcache:false", *filter(None, [os.environ.get(OF_POLARS)])])
    with suppress(AttributeError, OSError):
        c = ctypes.CDLL(None)
        for threshold in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            c.mallopt(threshold, RETURNED_BYTES)


def give_back() -> None:
    """Give back what is free between small pieces in use, as a large response leaves it.

    It takes milliseconds.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
