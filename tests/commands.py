"""`flows` commands as processes that are forked from one that has imported the program already.

Each has an environment, folder, output and exit code of its own, as if a shell had started it, and
is only spared a second of imports. Tests of a command's start run it as a shell does, as do those
of a gateway of several workers, which reads the environment as it is imported.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path

from app.cli.__main__ import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
# Commands import these when they run.
LATE = ("app.http.server", "app.ingest.pipeline", "app.main")
PARENT = "PARENT"


@cache
def _forkserver() -> ForkServerContext:
    """Return the context of processes that are forked from one with all commands imported."""
    context = multiprocessing.get_context("forkserver")
    modules = {place.partition(":")[0] for place in COMMANDS.values()}
    context.set_forkserver_preload(["__main__", __name__, *sorted(modules), *LATE])
    return context


class Command:
    """A running command; `pid` is its process, which is a child of the one it was forked from."""

    def __init__(
        self, words: tuple[str, ...], env: Mapping[str, str], folder: Path, given: str, cwd: Path
    ) -> None:
        (folder / "0").write_text(given)
        self._folder = folder
        self._process = _forkserver().Process(target=_run, args=(words, dict(env), cwd, folder))
        self._process.start()
        self.pid = self._process.pid or 0

    @property
    def output(self) -> str:
        """Its standard output so far."""
        return self._printed("1")

    @property
    def errors(self) -> str:
        """Its standard error so far."""
        return self._printed("2")

    def _printed(self, number: str) -> str:
        file = self._folder / number
        return file.read_text() if file.exists() else ""

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs."""
        return self._process.exitcode

    def wait(self, seconds: float | None = None) -> int:
        """Return its exit code when it has ended; TimeoutError if it takes longer."""
        self._process.join(seconds)
        if self._process.exitcode is None:
            raise TimeoutError(f"the command still runs after {seconds} s")
        return self._process.exitcode

    def terminate(self) -> None:
        """Send it a SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """Send it a SIGKILL."""
        self._process.kill()


@contextmanager
def command(
    words: tuple[str, ...], env: Mapping[str, str], *, given: str = "", cwd: Path = ROOT
) -> Iterator[Command]:
    """Start `flows` with an environment and a standard input; what still runs at the end is killed.

    The word PARENT stands for the id of its parent, which ends with this process.
    """
    with tempfile.TemporaryDirectory(prefix="flows-test-") as folder:
        running = Command(words, env, Path(folder), given, cwd)
        try:
            yield running
        finally:
            running.kill()
            running.wait()


def run_command(
    words: tuple[str, ...], env: Mapping[str, str], *, given: str = "", cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run `flows` with an environment and a standard input; return its exit code and output."""
    with command(words, env, given=given, cwd=cwd) as running:
        code = running.wait()
        return subprocess.CompletedProcess(("flows", *words), code, running.output, running.errors)


def _run(words: tuple[str, ...], env: Mapping[str, str], cwd: Path, folder: Path) -> None:
    """Run `flows` in a process just forked, with the files 0, 1 and 2 of a folder."""
    with ExitStack() as files:
        for number, mode in enumerate(("rb", "wb", "wb")):
            file = files.enter_context((folder / str(number)).open(mode))
            os.dup2(file.fileno(), number)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, closefd=False) for number, mode in enumerate("rww")
    )
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["flows", *(str(os.getppid()) if word == PARENT else word for word in words)]
    main()
