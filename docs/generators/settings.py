"""The page of the settings, generated from their descriptions in app/settings.py."""

import types
import typing
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from app.settings import Settings

INTRODUCTION = """\
# Settings

Every setting is an environment variable, or a line `NAME=value` of the file `.env` in the folder
where `flows` starts; the environment wins. A value that cannot be is one line that names the
setting, and nothing starts. Secrets are never printed; instead of a secret, the same name with
`_FILE` may name a file that holds it, such as one that Docker or Kubernetes mounts. The name
that a setting had before (*was*) is still read.

Outside these, `FLOWS_POSTGRES_BIN` names the folder of the PostgreSQL programs (`initdb`,
`pg_basebackup`, …) that `flows up`, `flows backup` and the tests run, instead of those of the extra
`embedded`; and `FLOWS_POSTGREST_BIN` the PostgREST program that `flows up` and the tests run,
instead of one on PATH or npm's.
"""
HEADER = "| setting | value | default | meaning |\n|---|---|---|---|\n"
TYPES = {int: "integer", float: "number", bool: "true or false", str: "text", Path: "path",
         SecretStr: "text, secret", tuple: "list, by comma"}  # fmt: skip


def page() -> str:
    """Return the page as Markdown: the gateway's own settings first, then each group."""
    groups = dict(_groups(Settings))
    parts = [INTRODUCTION, _section("`FLOWS_*`: the gateway itself", Settings)]
    parts += [_section((group.__doc__ or "").splitlines()[0], group) for group in groups.values()]
    return "\n".join(parts)


def _groups(settings: type[BaseSettings]) -> typing.Iterator[tuple[str, type[BaseSettings]]]:
    for name, field in settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseSettings):
            yield name, kind
            yield from _groups(kind)


def _section(title: str, settings: type[BaseSettings]) -> str:
    nested = dict(_groups(settings))
    rows = [
        f"| {_names(settings, name)} | {_kind(field.annotation)} | {_default(field)} "
        f"| {_cell(field.description or '')} |\n"
        for name, field in settings.model_fields.items()
        if name not in nested
    ]
    return f"## {title.rstrip('.')}\n\n{HEADER}{''.join(rows)}"


def _names(settings: type[BaseSettings], name: str) -> str:
    """Return the variable's name, and the former name that is still read."""
    present = f"{settings.model_config.get('env_prefix', '')}{name}".upper()
    former = getattr(settings, "former_names", {}).get(name)
    return f"`{present}` (was `{former}`)" if former else f"`{present}`"


def _kind(annotation: Any) -> str:
    """Return the type of a setting's values, in words."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        (annotation,) = (one for one in typing.get_args(annotation) if one is not types.NoneType)
    if typing.get_origin(annotation) is typing.Annotated:
        return _kind(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(f"`{member.value}`" for member in annotation)
    plain = typing.get_origin(annotation) or annotation
    return TYPES.get(plain, getattr(plain, "__name__", str(plain)))


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined or value is None or value == ():
        return ""
    if isinstance(value, bool):
        value = str(value).lower()
    return f"`{value}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
