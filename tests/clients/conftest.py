"""The clients, with types of the running stack's document, in a folder of their own."""

import shutil
from pathlib import Path

import pytest

from clients.generate import CLIENTS, generate
from tests.conftest import Stack


@pytest.fixture(scope="session")
def generated(stack: Stack, npm_tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of clients/ with generated types."""
    folder = tmp_path_factory.mktemp("clients") / "clients"
    for language in ("python", "typescript"):
        made = shutil.ignore_patterns("node_modules", "dist")
        shutil.copytree(CLIENTS / language, folder / language, ignore=made)
    with stack.client("wlce", "write") as client:
        document = client.get("/openapi.json").raise_for_status().json()
    generate(document, folder, str(npm_tools / "node_modules/.bin/openapi-typescript"))
    return folder
