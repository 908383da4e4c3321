"""A child process is stopped in order, and killed only when its patience is over."""

import sys
from pathlib import Path

import pytest

from app.embedded.process import Child
from tests.conftest import wait_until

# Ends a while after SIGTERM, as PostgREST 16 does while a query runs.
DRAINS = """
import pathlib, signal, sys, time
def drain(number, frame):
    time.sleep(float(sys.argv[2]))
    pathlib.Path(sys.argv[1], "drained").touch()
    sys.exit()
signal.signal(signal.SIGTERM, drain)
pathlib.Path(sys.argv[1], "ready").touch()
while True:
    time.sleep(60)
"""


@pytest.mark.parametrize(("patience", "takes", "drained"), [(60.0, 0.5, True), (0.1, 60.0, False)])
def test_a_child_may_finish_what_it_does(
    tmp_path: Path, patience: float, takes: float, drained: bool
) -> None:
    command = [sys.executable, "-c", DRAINS, str(tmp_path), str(takes)]
    child = Child("draining", command, log=tmp_path / "log", patience=patience)
    wait_until((tmp_path / "ready").exists)
    child.stop()
    assert not child.running
    assert (tmp_path / "drained").exists() == drained
