"""Configuration files of a backed-up server, as they lie in its data directory."""

import re
from collections.abc import Iterator
from pathlib import Path

# name, optionally =, then a quoted value ('' is a quote) or a plain one.
LINE = re.compile(r"\s*([A-Za-z_][\w.]*)\s*=?\s*(?:'((?:[^'\\]|''|\\.)*)'|([^\s#']+))")
FILES = ("postgresql.conf", "postgresql.auto.conf")
DEEPEST_INCLUDE = 10


def server_settings(data: Path) -> dict[str, str]:
    """Return the settings in a data directory's files: lower-case name → value.

    Included files are read if they are inside the data directory. Another include, or a file that
    does not exist, is returned as a setting of that name: `include` → its path.
    """
    found: dict[str, str] = {}
    for name in FILES:
        found.update(_settings(data / name, data, DEEPEST_INCLUDE))
    return found


def _settings(file: Path, data: Path, depth: int) -> Iterator[tuple[str, str]]:
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        yield "include" if file.name not in FILES else "config_file", str(file)
        return
    for line in lines:
        matched = LINE.match(line)
        if matched is None:
            continue
        name, quoted, plain = matched.groups()
        value = plain if quoted is None else re.sub(r"''|\\(.)", _unescape, quoted)
        if name.lower() in ("include", "include_if_exists", "include_dir"):
            yield from _included(name.lower(), file.parent / value, data, depth)
        else:
            yield name.lower(), value


def _included(how: str, path: Path, data: Path, depth: int) -> Iterator[tuple[str, str]]:
    if not path.resolve().is_relative_to(data.resolve()) or not depth:
        yield how, str(path)
    elif how == "include_dir":
        for file in sorted(path.glob("[!.]*.conf")):
            yield from _settings(file, data, depth - 1)
    elif how == "include" or path.exists():
        yield from _settings(path, data, depth - 1)


def _unescape(found: re.Match[str]) -> str:
    return found[1] or "'"
