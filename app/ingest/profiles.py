"""Profiles: files of known origins, each described by a TOML file in the folder beside this one.

`title` says whose files they are; `[match]` how they are recognised: `columns` that the header must
have, `text` that must be in the first lines, the `start` of the file, or a regular expression, its
`pattern`; `[options]` how they are read. An option that `optional` names is left out if the header
has no such column.
"""

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.ingest.faults import FormatError
from app.ingest.options import ImportOptions, read_options
from app.ingest.source import SourceFile
from app.ingest.table import HEAD, find_header

FOLDER = Path(__file__).parent / "profiles"
HEAD_CHARACTERS = 64_000
# Options that say how a file is laid out: with one of them, no profile is looked for.
LAID_OUT = {
    "layout", "time_column", "date_column", "number_column", "import_column", "export_column",
    "quantity_column", "value_column",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class FileProfile:
    """A kind of files, and the options to read them with."""

    name: str
    title: str
    match: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def fits(self, head: str) -> bool:
        """Return whether a file that begins so is of this kind."""
        wanted = self.match.get("columns", [])
        return (
            bool(self.match)
            and head.lstrip().startswith(self.match.get("start", ""))
            and re.match(self.match.get("pattern", ""), head.lstrip()) is not None
            and all(text in head for text in self.match.get("text", []))
            and (not wanted or self._header(head) is not None)
        )

    def _header(self, head: str) -> list[str] | None:
        lines = head.splitlines(keepends=True)[:HEAD]
        delimiter = self.options.get("delimiter")
        found = find_header(lines, delimiter, self.match.get("columns", []))
        return found[0] if found else None

    def merged(self, options: ImportOptions, head: str) -> ImportOptions:
        """Return the profile's options, replaced by those that were given."""
        given = {
            name: value
            for name in options.model_fields_set
            if (value := getattr(options, name)) is not None
        }
        known = dict(self.options)
        header = [name.casefold() for name in self._header(head) or []]
        for name in self.match.get("optional", []):
            if str(known.get(name, "")).casefold() not in header:
                known.pop(name, None)
        if "register_id" in given or "register_column" in given:
            known.pop("serial_column", None)
        if given.get("direction") == "export" and "export_column" not in known:
            known["export_column"] = known.pop("import_column", None)
        return read_options(**(known | given))


def list_profiles() -> list[FileProfile]:
    """Return the profiles that come with the program, by name."""
    return [
        read_profile(path) for path in sorted(FOLDER.glob("*.toml"), key=lambda path: path.stem)
    ]


def read_profile(path: Path) -> FileProfile:
    """Return the profile in a TOML file; FormatError if it is none."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        profile = FileProfile(path.stem, **content)
    except FileNotFoundError:
        raise FormatError(f"there is no profile {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, TypeError) as error:
        raise FormatError(f"the profile {path} cannot be read: {error}") from None
    try:
        read_options(**profile.options)
    except FormatError as error:
        raise FormatError(f"the profile {path}: {error}") from None
    return profile


def named_profile(name: str) -> FileProfile:
    """Return a profile by its name, or by the path of a TOML file."""
    if name.endswith(".toml"):
        return read_profile(Path(name))
    for profile in list_profiles():
        if profile.name == name:
            return profile
    names = ", ".join(profile.name for profile in list_profiles())
    raise FormatError(
        f"there is no profile {name!r}; there are: {names}, or a path of a .toml file"
    )


def with_profile(source: SourceFile, options: ImportOptions) -> ImportOptions:
    """Return options with those of the named profile, or of the one that fits the file."""
    head = source.text.read(HEAD_CHARACTERS)
    source.text.seek(0)
    if options.profile is not None:
        return named_profile(options.profile).merged(options, head)
    if LAID_OUT & options.model_fields_set:
        return options
    fitting = [profile for profile in list_profiles() if profile.fits(head)]
    if len(fitting) > 1:
        names = ", ".join(profile.name for profile in fitting)
        raise FormatError(f"several profiles fit the file: name one with --profile: {names}")
    for profile in fitting:
        source.found.append(f"profile {profile.name}")
        return profile.merged(options, head)
    return options
