"""The examples of README.md and docs/ run as written, page by page."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests.conftest import Stack, running_stack

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"])
RUN = ("bash", "python", "sql")
SHOWN = ("ini", "javascript", "json", "markdown", "mermaid", "powerquery", "r", "text", "yaml")
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>.+?) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
WRITTEN_BASES = ("http://127.0.0.1:8000", "https://api.example.org")
WRITTEN_BACKUPS = "/backup/flows"
# Makes an example fail if it gets an error response.
CURL = '#!/bin/sh\nexec "$REAL_CURL" --fail-with-body --silent --show-error "$@"\n'
BASH = """\
set -aeuo pipefail
trap 'echo "failed: $BASH_COMMAND" >&2' ERR
{code}
env -0 > "$VARIABLES"
"""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `reason` is why it is not run, if so."""

    language: str
    code: str
    reason: str | None


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, from top to bottom."""
    found = BLOCK.finditer(page.read_text())
    return [Block(one["language"], one["code"], one["reason"]) for one in found]


def name(page: Path) -> str:
    """Return the page's path in the repository."""
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def backups() -> Iterator[Path]:
    """A folder used as the examples' backup folder, which PostgreSQL's user can enter."""
    with tempfile.TemporaryDirectory(prefix="flows-test-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def stack(backups: Path) -> Iterator[Stack]:
    """A separate stack, because examples create clients, write readings and take backups."""
    with running_stack(FLOWS_BACKUP_FOLDER=str(backups)) as running:
        yield running


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_block_is_run_or_says_why_not(page: Path) -> None:
    found = blocks(page)
    assert {block.language for block in found} <= {*RUN, *SHOWN}
    comments = page.read_text().count("<!-- not run:")
    assert comments == sum(block.reason is not None for block in found), "above a block, with why"


def test_most_blocks_are_run() -> None:
    found = [block for page in PAGES for block in blocks(page) if block.language in RUN]
    assert sum(block.reason is None for block in found) > len(found) / 2


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.language in RUN for b in blocks(page))], ids=name
)
def test_the_examples_of_a_page_work(
    page: Path, stack: Stack, backups: Path, tmp_path: Path
) -> None:
    code = dict.fromkeys(RUN, "")
    for block in blocks(page):
        if block.language in RUN and block.reason is None:
            code[block.language] += _of_this_stack(block.code, stack, backups)
    variables = _run_bash(code["bash"], stack, tmp_path)
    if code["python"]:
        _run([sys.executable, "-c", code["python"]], tmp_path, variables)
    if code["sql"]:
        with psycopg.connect(stack.contract["database_url"]) as connection:
            connection.execute(code["sql"])
            connection.rollback()


def _of_this_stack(code: str, stack: Stack, backups: Path) -> str:
    for base in WRITTEN_BASES:
        code = code.replace(base, stack.contract["base_url"])
    return code.replace(WRITTEN_BACKUPS, str(backups))


def _run_bash(code: str, stack: Stack, folder: Path) -> dict[str, str]:
    """Run the blocks of a page in one shell; return its variables."""
    (folder / ".flows").symlink_to(stack.home)
    (folder / ".venv").symlink_to(Path(sys.executable).parents[1])
    (folder / "programs").mkdir()
    curl = folder / "programs" / "curl"
    curl.write_text(CURL)
    curl.chmod(0o755)
    community = json.loads((stack.home / "demo.json").read_text())["escos"]["wlce"]
    path = (str(curl.parent), str(Path(sys.executable).parent), os.environ["PATH"])
    environment = os.environ | {
        "PATH": os.pathsep.join(path),
        "REAL_CURL": str(shutil.which("curl")),
        "VARIABLES": str(folder / "variables"),
        "TOKEN": community["read_token"],
        "WRITE_TOKEN": community["write_token"],
        "CLIENT_ID": community["client_id"],
        "CLIENT_SECRET": community["client_secret"],
    }
    _run(["bash", "-c", BASH.format(code=code)], folder, environment)
    pairs = (folder / "variables").read_text().rstrip("\0").split("\0")
    return {key: value for key, _, value in (pair.partition("=") for pair in pairs)}


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
