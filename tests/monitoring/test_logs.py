"""The gateway's log: one JSON object a line, whatever is logged."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg

from app.embedded.process import Child
from tests.conftest import Stack, another_gateway, wait_until

# Everything that a process may log: by a library, by `warnings`, by a thread and by its own crash.
PROGRAM = """
import logging, threading, warnings
from app.monitoring.logs import log_to_stderr
log_to_stderr()
logging.getLogger("library").warning("begin " + "x" * 1_000_000 + " end")
logging.getLogger("library").warning("two\\nlines of %s", "text")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("library").exception("it failed")
warnings.warn("old")
def crash():
    raise KeyError("in a thread")
thread = threading.Thread(target=crash)
thread.start(); thread.join()
raise RuntimeError("at the end")
"""


def entries(text: str) -> list[dict[str, Any]]:
    """Return the lines of a log; each is JSON with a recent time and a level."""
    found: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    for entry in found:
        age = datetime.now(UTC) - datetime.fromisoformat(entry["time"])
        assert timedelta(0) <= age + timedelta(seconds=1) < timedelta(hours=1), entry
        assert entry["time"].endswith("Z")
        assert entry["level"] in ("info", "warning", "error", "critical"), entry
    return found


def sizes(folder: Path) -> dict[str, int]:
    """Return the bytes of each log."""
    return {file.name: file.stat().st_size for file in folder.iterdir()}


def test_68_what_a_caller_sends_is_in_no_log(stack: Stack) -> None:
    """Errors of statements quote values: neither a stranger nor a partner fills the logs."""
    logs = stack.home / "logs"
    before, secret = sizes(logs), "confidential-value-68"
    with stack.client("wlce", "write") as client:
        answer = client.post("/rest/v1/sites_new", json={"id": secret + "x" * 5_000_000})
        assert answer.status_code == 400
        for path in (f"sites_new?id=eq.{secret}", f"circuits?{secret}=eq.1",
                     "rpc/nothing", f"meter_registry?select={secret}"):  # fmt: skip
            assert client.get(f"/rest/v1/{path}").status_code in (400, 404)
        taken = client.get("/rest/v1/meter_registry?limit=1").json()[0]
        assert client.post("/rest/v1/meter_registry", json={
            "serial": taken["serial"], "name": secret}).status_code == 409  # fmt: skip
        assert client.get(f"/v1/meters?serial={secret}%00").status_code in (400, 422)
    requests = 50
    with httpx.Client(base_url=stack.contract["base_url"]) as stranger:
        for _ in range(requests):
            stranger.get(f"/rest/v1/{'x' * 15_000}?name=eq.{secret}",
                         headers={"Authorization": f"Bearer {secret}"})  # fmt: skip
            stranger.post("/auth/token", data={"grant_type": "client_credentials"},
                          auth=(secret * 100, "x"))  # fmt: skip
    grown = {name: size - before.get(name, 0) for name, size in sizes(logs).items()}
    assert max((size for name, size in grown.items() if "postgres" in name), default=0) < 4_096
    assert sum(grown.values()) < 2 * requests * 1_024 + 16_384, grown
    for file in logs.iterdir():
        with file.open("rb") as written:
            written.seek(before.get(file.name, 0))
            assert secret.encode() not in written.read(), file.name


def test_warnings_tracebacks_and_crashes_are_a_line_each() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    logged = entries(done.stderr)
    assert [entry["level"] for entry in logged] == [
        "warning", "warning", "error", "warning", "critical", "critical",
    ]  # fmt: skip
    long = logged.pop(0)["message"]
    assert (long[:6], long[-4:], len(long) < 5_000) == ("begin ", " end", True)
    assert logged[0]["message"] == "two\nlines of text"
    assert "ZeroDivisionError" in logged[1]["traceback"]
    assert "old" in logged[2]["message"]
    assert "in a thread" in logged[3]["traceback"]
    assert "RuntimeError: at the end" in logged[4]["traceback"]


def test_every_line_of_a_gateway_is_json(stack: Stack) -> None:
    with another_gateway(stack) as stack, stack.client("wlce") as client:
        client.get("/rest/v1/escos").raise_for_status()
        with psycopg.connect(stack.contract["database_url"], autocommit=True) as admin:
            admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where application_name like 'flows-gateway%'"
            )
        wait_until(lambda: '"level":"warning"' in stack.process.errors, 30)
        logged = entries(stack.process.errors)
    requests = [entry for entry in logged if entry.get("path") == "/rest/v1/escos"]
    assert [entry["status"] for entry in requests] == [200]
    assert {"info", "warning"} <= {entry["level"] for entry in logged}


def test_the_last_words_of_a_child_are_its_last_error(tmp_path: Path) -> None:
    lines = (
        {"level": "error", "message": "the port is taken"},
        {"level": "info", "path": "/ready", "status": 503},
        {"level": "warning", "message": "an error of another kind"},
    )
    program = ";".join(f"print({json.dumps(json.dumps(line))})" for line in lines)
    child = Child("child", [sys.executable, "-c", program], log=tmp_path / "log")
    wait_until(lambda: not child.running)
    child.stop()
    assert child.last_words() == "error: the port is taken"
