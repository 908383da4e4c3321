"""Mermaid diagrams, drawn as SVG while the site is built: a page needs no script for them."""

from typing import Any

import mermaidx


def draw(source: str, language: str, css_class: str, *_: Any, **__: Any) -> str:
    """Return the HTML of a ```mermaid block; a diagram that cannot be read fails the build."""
    return f'<div class="{css_class}">{mermaidx.render(source).svg()}</div>'
