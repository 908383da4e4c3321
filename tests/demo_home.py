"""The demo's state folder, loaded once: every stack of the tests starts from a copy of it.

The copies are made from a template below `.pytest_cache`, one for each engine and each state of the
sources that create it. A template is used for an hour, because a start appends the demo's
half-hours up to now, but not its slower series.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from app.embedded.programs import binaries

ROOT = Path(__file__).resolve().parents[1]
MADE_BY = (
    "sql",
    "app/auth",
    "app/db",
    "app/embedded",
    "constraints.txt",
    "postgrest.conf",
    "tests/demo_home.py",
)
CACHE = ROOT / ".pytest_cache" / "d" / "demo-homes"
BEST_BEFORE_SECONDS = 3600
KEPT = 4  # templates to keep: of two engines and two states of the sources
STOP_SECONDS = 60
# A test's database need not survive a crash of the machine, so it does not wait for the disk.
SERVER_SETTINGS = "fsync = off\nmin_wal_size = 32MB\n"


def copy_demo_home(home: Path) -> None:
    """Create `home` as the state folder of a stopped stack with the demo, keys and passwords."""
    CACHE.mkdir(parents=True, exist_ok=True)
    template = CACHE / _fingerprint()
    with _locked(template) as lock:
        if not _usable(template):
            # Only one of several runs or workers creates it, and none copies it then.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _usable(template):
                _make(template)
                _prune(template)
            fcntl.flock(lock, fcntl.LOCK_SH)
        # Keep the owners: if tests run as root, PostgreSQL runs as a separate user.
        subprocess.run(["cp", "-a", str(template), str(home)], check=True)


def _fingerprint() -> str:
    """Return a digest of everything that the template depends on."""
    sources = [file for name in MADE_BY for file in _files(ROOT / name)]
    engine = [binaries() / "postgres", *(binaries().parent / "lib").glob("timescaledb*.so")]
    digest = hashlib.sha256(str(os.geteuid()).encode())
    for file in sources:
        digest.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    for file in sorted(engine):
        status = file.stat()
        digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file() and file.suffix != ".pyc")


def _usable(template: Path) -> bool:
    try:
        return time.time() - template.stat().st_mtime < BEST_BEFORE_SECONDS
    except FileNotFoundError:
        return False


@contextmanager
def _locked(template: Path, how: int = fcntl.LOCK_SH) -> Iterator[int]:
    descriptor = os.open(template.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, how)
        yield descriptor
    finally:
        os.close(descriptor)


def _make(template: Path) -> None:
    shutil.rmtree(template, ignore_errors=True)
    # In /tmp, because PostgreSQL's own user can enter all folders above it.
    with tempfile.TemporaryDirectory(prefix="flows-test-", dir="/tmp") as folder:
        home = Path(folder) / "home"
        ours = {name: value for name, value in os.environ.items() if not name.startswith("FLOWS_")}
        if "FLOWS_POSTGRES_BIN" in os.environ:
            ours["FLOWS_POSTGRES_BIN"] = os.environ["FLOWS_POSTGRES_BIN"]
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "up", "--demo", "--parent", str(os.getpid())],
            env=ours | {"FLOWS_HOME": str(home), "FLOWS_PORT": "0", "FLOWS_DEMO_IDENTITY": "off"},
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert process.stdout is not None
        try:
            first = process.stdout.readline()
            assert first.startswith("ready http://"), f"the demo did not start: {first!r}"
            contract = json.loads((home / "demo.json").read_text())
            with psycopg.connect(contract["database_url"], autocommit=True) as admin:
                admin.execute("checkpoint")  # now, because a stopping server has little time
        finally:
            process.terminate()
            process.communicate(timeout=STOP_SECONDS)
        # Each start writes it again, with tokens for its own address.
        (home / "demo.json").unlink()
        for log in (home / "logs").iterdir():
            log.unlink()
        with (home / "postgres" / "postgresql.conf").open("a") as settings:
            settings.write(SERVER_SETTINGS)
        _trim_wal(home / "postgres")
        partial = template.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        subprocess.run(["cp", "-a", str(home), str(partial)], check=True)
    partial.touch()  # its age counts from here
    partial.rename(template)


def _trim_wal(data: Path) -> None:
    """Remove the WAL that a start after a clean stop does not read, half of the size."""
    told = subprocess.run(
        [str(binaries() / "pg_controldata"), str(data)], capture_output=True, text=True, check=True
    ).stdout
    assert re.search(r"cluster state: +shut down$", told, re.MULTILINE), told
    (needed,) = re.findall(r"REDO WAL file: +([0-9A-F]{24})$", told, re.MULTILINE)
    for segment in (data / "pg_wal").iterdir():
        if segment.is_file() and segment.name != needed:
            segment.unlink()


def _prune(newest: Path) -> None:
    """Remove the oldest templates that are not being copied."""
    there = [path for path in CACHE.iterdir() if path.is_dir() and path != newest]
    there.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for old in there[KEPT - 1 :]:
        try:
            with _locked(old, fcntl.LOCK_EX | fcntl.LOCK_NB):
                shutil.rmtree(old)
        except BlockingIOError:
            continue
