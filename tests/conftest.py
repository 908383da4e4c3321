"""One real stack for the whole run: its own PostgreSQL, PostgREST and gateway, beside any demo."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

STOP_SECONDS = 60


@dataclass(frozen=True)
class Stack:
    """A running stack: the contract of demo.json."""

    home: Path
    contract: dict[str, Any]

    def client(self, esco: str | None, kind: str = "read") -> httpx.Client:
        """An HTTP client of the gateway with the ESCO's token, or with none."""
        token = self.contract["escos"][esco][f"{kind}_token"] if esco else None
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.contract["base_url"], headers=headers, timeout=30)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Start `flows up --demo` on free ports in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="flows-test-", dir="/tmp") as folder:
        home = Path(folder) / "home"
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "up", "--demo", "--with-parent"],
            env=os.environ | {"FLOWS_HOME": str(home), "FLOWS_PORT": "0"},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        try:
            first = process.stdout.readline()
            assert first.startswith("ready http://"), f"the stack did not start: {first!r}"
            yield Stack(home, json.loads((home / "demo.json").read_text()))
        finally:
            process.terminate()
            process.communicate(timeout=STOP_SECONDS)


@pytest.fixture(scope="session")
def engine(stack: Stack) -> str:
    """What keeps the time series: `timescale` or `postgres`."""
    name: str = stack.contract["engine"]
    return name


@pytest.fixture
def admin(stack: Stack) -> Iterator[psycopg.Connection[Any]]:
    """A superuser's connection, rolled back at the end."""
    with psycopg.connect(stack.contract["database_url"]) as connection:
        yield connection
        connection.rollback()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say which engine the run was on."""
    binaries = os.environ.get("FLOWS_POSTGRES_BIN", "the embedded PostgreSQL")
    found = list((Path(binaries).parent / "lib").glob("timescaledb-*.so"))
    kept = "TimescaleDB" if found else "plain PostgreSQL (no TimescaleDB here)"
    terminalreporter.write_line(f"time series were kept by: {kept}")
