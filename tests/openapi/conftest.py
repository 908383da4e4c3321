"""Fixtures: the OpenAPI documents of the running stack, and the npm tools that check them."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Stack

NPM_TOOLS = ("@redocly/cli@2.77.0", "openapi-typescript@7.13.0", "typescript@5.9.3")
INSTALL_SECONDS = 240

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
def npm_tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pinned npm tools in `node_modules/.bin`; skips without npm."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("npm")
    done = subprocess.run(
        [npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), *NPM_TOOLS],
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"npm cannot install the tools: {done.stderr.strip().splitlines()[-1]}")
    return folder


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
