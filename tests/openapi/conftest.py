"""Fixtures: the OpenAPI documents of the running stack, and the npm tools that check them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Stack

Document = dict[str, Any]


@pytest.fixture(scope="session")
def document(stack: Stack) -> Callable[..., Document]:
    """A function that fetches /openapi.json with a token of an ESCO, or without a token."""

    def fetch(esco: str | None = None, kind: str = "read") -> Document:
        with stack.client(esco, kind) as client:
            answer = client.get("/openapi.json")
        assert answer.status_code == 200, answer.text
        found: Document = answer.json()
        return found

    return fetch


@pytest.fixture(scope="session")
def saved(
    document: Callable[..., Document], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Document], Path]:
    """A function that writes a document to a new file and returns its path."""

    def save(content: Document) -> Path:
        file = tmp_path_factory.mktemp("openapi") / "openapi.json"
        file.write_text(json.dumps(content))
        return file

    return save
