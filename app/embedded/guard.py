"""Runs a child process until the parent closes the pipe to this program's standard input.

`python -m app.embedded.guard SIGNAL [--user NAME] [--patience SECONDS] -- COMMAND …`: when standard
input ends, however the parent died, the child gets SIGNAL, and SIGKILL `SECONDS` later. A pipe also
works on systems without a parent-death signal (macOS), and lets PostgreSQL shut down cleanly after
a `kill -9` of the parent.
"""

import argparse
import os
import signal
import subprocess
import threading

PATIENCE_SECONDS = 20.0


def main() -> int:
    """Start the child, wait for it or for the parent, and exit with the child's code."""
    parser = argparse.ArgumentParser(prog="guard")
    parser.add_argument("signal", type=signal.Signals.__getitem__)
    parser.add_argument("--user")
    parser.add_argument("--patience", type=float, default=PATIENCE_SECONDS)
    parser.add_argument("command", nargs="+")
    asked = parser.parse_args()
    # A new session keeps the terminal's Ctrl-C from the child: the parent stops children in order.
    child = subprocess.Popen(
        asked.command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        user=asked.user,
        group=asked.user,
        extra_groups=[] if asked.user else None,
    )

    def stop_with_parent() -> None:
        # Not sys.stdin: if the child ends first, its lock held here would abort the interpreter.
        while os.read(0, 1):
            pass
        child.send_signal(asked.signal)
        try:
            child.wait(asked.patience)
        except subprocess.TimeoutExpired:
            child.kill()

    threading.Thread(target=stop_with_parent, daemon=True).start()
    return child.wait()


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    raise SystemExit(main())
