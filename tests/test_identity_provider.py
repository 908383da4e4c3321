"""The demo's OpenID provider: what keeps it from starting is told, and holds nothing up."""

import socket
import time
from pathlib import Path

import psutil
import pytest

from app.embedded import identity_provider
from app.embedded.identity_provider import IdentityProvider
from app.embedded.ports import free_port
from tests.conftest import wait_until
from tests.servers import write_program


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs, the only one on PATH."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def provider(home: Path) -> IdentityProvider:
    """Return a provider that was started in a folder."""
    (home / "logs").mkdir(parents=True)
    made = IdentityProvider(home, earlier=None, server_secret="x" * 43)
    made.start()
    return made


def test_without_node_or_npm_that_is_said(tmp_path: Path, tools: Path) -> None:
    for home, program in (("a", "node"), ("b", "npm")):
        without = provider(tmp_path / home)
        assert not without.wait()
        assert without.fault == f"{program} is not installed"
        write_program(tools / program, "exit 1")


def test_a_provider_that_ends_is_said(tmp_path: Path, tools: Path) -> None:
    write_program(tools / "npm", "exit 0")
    write_program(tools / "node", "echo 'Error: this Node.js is too old'; exit 1")
    ended = provider(tmp_path / "home")
    assert not ended.wait()
    assert ended.fault is not None
    assert "this Node.js is too old" in ended.fault


def test_an_installation_that_hangs_is_ended(
    tmp_path: Path, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity_provider, "LATEST_SECONDS", 0.5)
    pid = tmp_path / "pid"
    write_program(
        tools / "npm", f"echo $$ > {pid}.new; /bin/mv {pid}.new {pid}; exec /bin/sleep 60"
    )
    write_program(tools / "node", "exit 0")
    begun = time.monotonic()
    slow = provider(tmp_path / "home")
    wait_until(pid.exists)
    assert not slow.wait()
    assert slow.fault == "it is not ready in time"
    assert time.monotonic() - begun < 30
    assert not psutil.pid_exists(int(pid.read_text()))


def test_the_port_of_an_earlier_start_is_taken_again_if_it_is_free(tmp_path: Path) -> None:
    earlier = f"http://127.0.0.1:{free_port()}"
    again = IdentityProvider(tmp_path, earlier=earlier, server_secret="x" * 43)
    assert again.url == earlier
    with socket.create_server(("127.0.0.1", 0)) as taken:
        earlier = f"http://127.0.0.1:{taken.getsockname()[1]}"
        other = IdentityProvider(tmp_path, earlier=earlier, server_secret="x" * 43)
        assert other.url != earlier
