"""The demo's OpenID provider: npm's `oidc-provider`, installed and run beside the other parts."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from app.embedded.demo_people import CLIENT_ID, SERVER_CLIENT_ID, accounts
from app.embedded.ports import free_port
from app.embedded.postgrest import NPM_OPTIONS, npm_reason
from app.embedded.process import Child, StackError
from app.settings import Settings

SOURCE = Path(__file__).parent / "provider"
PACKAGE_FILES = ("package.json", "package-lock.json", ".npmrc", "provider.mjs")
# The demo waits so long for it when everything else is ready.
LATEST_SECONDS = 15.0
NETWORK = "127.0.0.1/32"
# Where Vite serves a page that is being developed, as the one in examples/.
DEVELOPMENT_ORIGINS = ("http://127.0.0.1:5173", "http://localhost:5173")
TOO_SLOW = "it is not ready in time"


class IdentityProvider:
    """The provider at a loopback port; whatever keeps it from starting is kept in `fault`.

    The port of an earlier start is taken again, so that its issuer stays the same.
    """

    def __init__(self, home: Path, *, earlier: str | None, server_secret: str) -> None:
        port = urlsplit(earlier).port if earlier else None
        self.url = f"http://127.0.0.1:{port if port and _is_free(port) else free_port()}"
        self.server_secret = server_secret
        self.fault: str | None = None
        self._folder = home / "identity"
        self._log = home / "logs" / "identity.log"
        self._env = {
            "PATH": os.environ.get("PATH", ""),
            "DEMO_ISSUER": self.url,
            "DEMO_ACCOUNTS": json.dumps(accounts()),
            "DEMO_CLIENT": CLIENT_ID,
            "DEMO_SERVER_CLIENT": SERVER_CLIENT_ID,
            "DEMO_SERVER_SECRET": server_secret,
        }
        self._child: Child | None = None
        self._npm: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to install and start it, in a thread."""
        self._thread.start()

    def wait(self) -> bool:
        """Return whether it answers, after LATEST_SECONDS at most; if not it is stopped."""
        deadline = time.monotonic() + LATEST_SECONDS
        self._thread.join(LATEST_SECONDS)
        late = self._thread.is_alive()
        if not late and self.fault is None and self._child is not None:
            with httpx.Client(base_url=self.url, timeout=1) as client:
                try:
                    self._child.wait_until(
                        lambda: _answers(client), seconds=max(1.0, deadline - time.monotonic())
                    )
                except StackError as error:
                    self.fault = str(error)
        if late or self.fault is not None:
            self.stop()
            self.fault = TOO_SLOW if late else self.fault
        return self.fault is None

    def stop(self) -> None:
        """Stop it, or its installation."""
        with self._lock:
            self._stopped = True
            if self._npm is not None and self._npm.poll() is None:
                self._npm.kill()
        if self._thread.is_alive():
            self._thread.join()
        if self._child:
            self._child.stop()

    @property
    def running(self) -> bool:
        """True if the process is running."""
        return self._child is not None and self._child.running

    def _run(self) -> None:
        try:
            node = shutil.which("node")
            if node is None:
                raise StackError("node is not installed")
            self._install()
            with self._lock:
                if not self._stopped:
                    self._child = Child(
                        "the identity provider",
                        [node, str(self._folder / "provider.mjs")],
                        log=self._log,
                        env=self._env,
                    )
        except (StackError, OSError) as error:
            self.fault = str(error)

    def _install(self) -> None:
        """Install the locked packages, unless that is done; StackError with npm's reason."""
        content = {name: (SOURCE / name).read_bytes() for name in PACKAGE_FILES}
        done = self._folder / "installed"
        state = hashlib.sha256(b"\0".join(content.values())).hexdigest()
        if done.exists() and done.read_text() == state:
            return
        npm = shutil.which("npm")
        if npm is None:
            raise StackError("npm is not installed")
        self._folder.mkdir(parents=True, exist_ok=True)
        for name, text in content.items():
            (self._folder / name).write_bytes(text)
        with self._lock:
            if self._stopped:
                return
            self._npm = subprocess.Popen(
                [npm, "ci", *NPM_OPTIONS, "--prefer-offline", "--ignore-scripts"],
                cwd=self._folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        _, errors = self._npm.communicate()
        if self._npm.returncode:
            reason = npm_reason(errors) or f"npm ended with code {self._npm.returncode}"
            raise StackError(f"npm could not install oidc-provider: {reason}")
        done.write_text(state)


def gateway_variables(
    settings: Settings, issuer: str, app: str, origins: Sequence[str]
) -> dict[str, str]:
    """Return the variables with which a gateway takes the provider's tokens, from `origins`."""
    return {
        "FLOWS_DOCS_ISSUER": issuer,
        "FLOWS_DOCS_CLIENT_ID": CLIENT_ID,
        "FLOWS_DOCS_APP": app,
        "FLOWS_ISSUERS_PRIVATE_NETWORKS": ",".join((*settings.issuers.private_networks, NETWORK)),
        "FLOWS_CORS_ORIGINS": ",".join(origins),
    }


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the server binds: a port whose connections of before are closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/.well-known/openid-configuration").status_code == 200
    except httpx.HTTPError:
        return False
