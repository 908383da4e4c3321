"""Progress on standard error: a line per step, and a bar or lines while rows are loaded."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

LINE_SECONDS = 2.0  # time between lines of progress without a terminal


@contextmanager
def step(what: str) -> Iterator[None]:
    """Report a step and its duration on standard error."""
    started = time.monotonic()
    print(f"  {what} …", end="", flush=True, file=sys.stderr)  # noqa: T201
    try:
        yield
    except BaseException:
        print(" failed", file=sys.stderr)  # noqa: T201
        raise
    print(f" {time.monotonic() - started:.1f} s", flush=True, file=sys.stderr)  # noqa: T201


@contextmanager
def rows(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show the number of rows loaded: a bar on a terminal, else a line every LINE_SECONDS.

    It yields a function that takes the rows loaded so far and their total.
    """
    started = time.monotonic()
    console = Console(stderr=True)
    try:
        if console.is_terminal:
            with _bar(console, what, unit) as show:
                yield show
        else:
            yield _lines(what, unit)
    except BaseException:
        print(f"  {what} … failed", file=sys.stderr)  # noqa: T201
        raise
    print(f"  {what} … {time.monotonic() - started:.1f} s", flush=True, file=sys.stderr)  # noqa: T201


@contextmanager
def _bar(console: Console, what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn("  {task.description} …"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TextColumn(unit), console=console, transient=True) as progress:
        task = progress.add_task(what, total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield show


def _lines(what: str, unit: str) -> Callable[[int, int], None]:
    printed = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal printed
        if time.monotonic() - printed >= LINE_SECONDS:
            printed = time.monotonic()
            print(f"  {what}: {done:,} of {total:,} {unit}", flush=True, file=sys.stderr)  # noqa: T201

    return show
