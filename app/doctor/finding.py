"""Findings of an examination, each with its mend."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong (fault) or will be (warning), and the way to mend it."""

    check: str
    level: Literal["fault", "warning"]
    text: str
    mend: str


def new_fault(check: str, text: str, mend: str) -> Finding:
    """Return a finding that harms callers or data now."""
    return Finding(check, "fault", text, mend)


def new_warning(check: str, text: str, mend: str) -> Finding:
    """Return a finding that harms nobody yet."""
    return Finding(check, "warning", text, mend)
