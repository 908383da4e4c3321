"""The screen that a demo's operator sees: ready, how to sign in and ask, and a clean end."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import pytest

from tests.conftest import Stack
from tests.demo_home import copy_demo_home
from tests.servers import run_flows

FLOWS = Path(sys.executable).parent / "flows"
STOP_SECONDS = 60


@pytest.mark.stack
def test_the_ready_screen_is_short_and_its_lines_work() -> None:
    with tempfile.TemporaryDirectory(prefix="flows-test-", dir="/tmp") as folder:
        home = Path(folder) / "home"
        copy_demo_home(home)
        process = subprocess.Popen(
            [FLOWS, "up", "--demo", "--parent", str(os.getpid())],
            env=os.environ | {"FLOWS_HOME": str(home), "FLOWS_PORT": "0"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            lines: list[str] = []
            while not lines or "Ctrl-C" not in lines[-1]:
                lines.append(process.stdout.readline().rstrip("\n"))
                assert process.poll() is None
            commands = [line.strip() for line in lines if line.startswith("  ")]
            done = subprocess.run(
                ["bash", "-euc", "\n".join(commands).replace("curl ", "curl -fsS -o /dev/null ")],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            signed_in = re.search(r"Authorize\) as (\S+), secret (\S+)", "\n".join(lines))
            assert signed_in
            base_url = lines[0].removeprefix("ready ")
            answer = httpx.post(
                f"{base_url}/auth/token",
                data={"grant_type": "client_credentials"},
                auth=(signed_in[1], signed_in[2]),
            )
            assert answer.status_code == 200, answer.text
            identity = json.loads((home / "demo.json").read_text())["identity"]
            told = r"or \(Sign in\) as (.+) of the staff, or (.+), a resident; no passwords"
            named = re.search(told, "\n".join(lines))
            assert named
            assert named[1].split(" or ") == list(identity["people"])
            assert named[2].split(" or ") == list(identity["residents"])
            place = f"{identity['issuer']}/.well-known/openid-configuration"
            assert httpx.get(place).json()["issuer"] == identity["issuer"]
        finally:
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=STOP_SECONDS)
    assert len(lines) <= 12
    assert len([command for command in commands if command.startswith("curl ")]) == 3
    assert shlex.split(commands[0])[0].startswith("TOKEN=$(FLOWS_HOME=")
    # The end says what is waited for, part by part.
    stopping = re.findall(
        r"stopping (the gateway|the identity provider|PostgREST|PostgreSQL).* … [\d.]+ s$",
        stderr, re.M,
    )  # fmt: skip
    assert stopping == ["the gateway", "the identity provider", "PostgREST", "PostgreSQL"]


def test_a_token_of_the_demo_is_printed(stack: Stack) -> None:
    home = str(stack.home)
    community = stack.contract["escos"]["hmce"]
    for words, token in (((), "read_token"), (("--write",), "write_token")):
        done = run_flows("demo", "token", "hmce", *words, FLOWS_HOME=home)
        assert done.stdout.strip() == community[token], done.stderr
    unknown = run_flows("demo", "token", "abce", FLOWS_HOME=home)
    assert (unknown.returncode, unknown.stderr) == (
        1,
        "error: the demo has no ESCO abce, but bfce, hmce, wlce\n",
    )


def test_without_a_demo_that_is_said(tmp_path: Path) -> None:
    refused = run_flows("demo", "token", "wlce", FLOWS_HOME=str(tmp_path))
    assert refused.returncode == 1
    assert f"there is no demo in {tmp_path}" in refused.stderr
    assert refused.stderr.count("\n") == 1
