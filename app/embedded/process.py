"""A child process that ends with this one, its log file, and what is said when it cannot go on."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


class StackError(Exception):
    """The stack cannot start or go on; the message is one line for a person."""


def end_with(parent: int) -> None:
    """Have this process get a SIGTERM when `parent`, which started it, is gone, however it ended.

    From now on, not only once all is started: until then the signal ends this process as it is, and
    the guards of its children stop them.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


class Child:
    """One guarded child process; `stop` is orderly, and so is the end when this process dies."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        stop_signal: str = "SIGTERM",
    ) -> None:
        self.name = name
        self.log = log
        as_user = ["--user", user] if user else []
        with log.open("ab") as output:
            self._log_start = output.tell()
            self._guard = subprocess.Popen(
                [sys.executable, "-m", "app.embedded.guard", stop_signal, *as_user, "--", *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=env,
                cwd=Path(__file__).resolve().parents[2],
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether the child is still there."""
        return self._guard.poll() is None

    def wait_until(self, ready: Callable[[], bool], *, seconds: float) -> None:
        """Poll `ready`; StackError with the end of the log if the child dies or time runs out."""
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.running:
                raise StackError(f"{self.name} stopped: {self.last_words()} (log: {self.log})")
            if time.monotonic() > deadline:
                raise StackError(
                    f"{self.name} is not ready after {seconds:.0f} s: {self.last_words()} "
                    f"(log: {self.log})"
                )
            time.sleep(0.05)

    def last_words(self) -> str:
        """The last line this child logged that names an error, else the last one."""
        lines = self.log.read_bytes()[self._log_start :].decode(errors="replace").splitlines()
        lines = [line for line in lines if not line.startswith("{")]  # the access log
        errors = [line for line in lines if re.search(r"\b(fatal|panic|error)\b", line, re.I)]
        return (errors or lines or ["no word in its log"])[-1]

    def stop(self) -> None:
        """Stop the child and wait for its end."""
        if self._guard.stdin and not self._guard.stdin.closed:
            self._guard.stdin.close()
        self._guard.wait()
