"""Locales of a backed-up database that this machine lacks, made for a private server."""

import re
import shutil
import subprocess
from pathlib import Path

SYSTEM_LOCALES = Path("/usr/lib/locale")


def provide_locale(name: str, folder: Path) -> str:
    """Make the locale `name` in `folder`, for LOCPATH; return a sentence about it.

    It is compiled from the system's sources where they are installed. Otherwise it is a copy of
    C.UTF-8, in which text sorts by code point: good for reading, but indexes on text must be built
    again before such a database is written to.
    """
    language, _, charset = name.partition(".")
    modifier = re.search(r"@.+", name)
    source = language.partition("@")[0] + (modifier[0] if modifier else "")
    made = folder / name
    localedef = shutil.which("localedef")
    if localedef:
        charset = charset.partition("@")[0] or "UTF-8"
        done = subprocess.run(
            [localedef, "--no-archive", "-i", source, "-f", charset, str(made)],
            capture_output=True,
            check=False,
        )
        if done.returncode == 0 and made.is_dir():
            _open(folder)
            return f"locale {name} is compiled for this server"
    shutil.copytree(SYSTEM_LOCALES / "C.utf8", made, dirs_exist_ok=True)
    _open(folder)
    return f"locale {name} is not installed here: text sorts by code point"


def _open(folder: Path) -> None:
    """Let PostgreSQL's own user read the locales."""
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
