"""The compose file as an engine reads it, for tests that run its services without one."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
# ${NAME}, ${NAME:-default} and ${NAME:?message}; a default may hold another variable.
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])((?:[^{}$]|\$\{[^{}]*\})*))?\}")


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """Return a text with its variables replaced; KeyError if one is required and not set."""

    def value(found: re.Match[str]) -> str:
        name, operator, default = found.groups()
        if text := variables.get(name):
            return text
        if operator == "?":
            raise KeyError(f"{name}: {default}")
        return interpolated(default, variables) if default else ""

    return VARIABLE.sub(value, text)


def services(variables: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the services, with the variables of the project's `.env` in place."""
    text = "\n".join(
        line for line in FILE.read_text().splitlines() if not line.lstrip().startswith("#")
    )
    found: dict[str, dict[str, Any]] = yaml.safe_load(interpolated(text, variables))["services"]
    return found


def environment(service: Mapping[str, Any], variables: Mapping[str, str]) -> dict[str, str]:
    """Return a container's environment: `.env` where it is an env_file, below `environment`."""
    below = dict(variables) if service.get("env_file") else {}
    return below | {name: str(value) for name, value in service.get("environment", {}).items()}
