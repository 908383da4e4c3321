"""Child processes that end with this one, and their log files."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from app.embedded.guard import PATIENCE_SECONDS


class StackError(Exception):
    """The stack cannot start or continue; the message is one line for the user."""


def end_with(parent: int) -> None:
    """Send this process a SIGTERM when its parent process, with id `parent`, ends in any way.

    This works from now on: during the start the signal simply ends this process, and the guards of
    its children stop those.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


class Child:
    """A child process with a guard, which stops it in an orderly way even if this process dies."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        stop_signal: str = "SIGTERM",
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        """Start the child; on `stop` it has `patience` seconds before it is killed."""
        self.name = name
        self.log = log
        options = ["--patience", str(patience), *(("--user", user) if user else ())]
        with log.open("ab") as output:
            self._log_start = output.tell()
            self._guard = subprocess.Popen(
                [sys.executable, "-m", "app.embedded.guard", stop_signal, *options, "--", *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=env,
                cwd=Path(__file__).resolve().parents[2],
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """True if the child is running."""
        return self._guard.poll() is None

    @property
    def pid(self) -> int:
        """The id of the guard, whose only child is the child itself."""
        return self._guard.pid

    def wait_until(self, ready: Callable[[], bool], *, seconds: float) -> None:
        """Wait until `ready` returns true; StackError if the child ends or the time runs out."""
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
        """Return the last line of the child's log that names an error, else its last line."""
        lines = self.log.read_bytes()[self._log_start :].decode(errors="replace").splitlines()
        lines = [text for line in lines if (text := _message(line))]
        errors = [line for line in lines if re.search(r"\b(fatal|panic|error)\b", line, re.I)]
        return (errors or lines or ["its log is empty"])[-1]

    def stop(self) -> None:
        """Stop the child and wait for its end."""
        if self._guard.stdin and not self._guard.stdin.closed:
            self._guard.stdin.close()
        self._guard.wait()


def _message(line: str) -> str:
    """Return a line of a log as text; "" for a line of JSON below an error, as of a request."""
    if not line.startswith("{"):
        return line
    try:
        entry = json.loads(line)
    except ValueError:
        return ""
    if entry.get("level") not in ("error", "critical"):
        return ""
    return f"{entry['level']}: {entry.get('message', '')}"
