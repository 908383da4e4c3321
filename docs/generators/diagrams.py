"""Mermaid diagrams, rendered to SVG when the site is built, so that pages need no script."""

import hashlib
from typing import Any

import mermaidx


def draw(source: str, language: str, css_class: str, *_: Any, **__: Any) -> str:
    """Return the HTML of a ```mermaid block; an invalid diagram fails the build."""
    name = f"diagram-{hashlib.sha256(source.encode()).hexdigest()[:8]}"
    svg = mermaidx.render(source).svg().replace("my-svg", name)
    return f'<div class="{css_class}">{svg}</div>'
