"""Layout of the code: private names stay in their modules, and each name has one meaning."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# In examples/ those who run them may have installed packages.
MODULES = sorted(
    path
    for room in ("app", "tests", "examples")
    for path in (ROOT / room).rglob("*.py")
    if not {"node_modules", ".venv"} & set(path.parts[len(ROOT.parts) :])
)

# Names that several modules of app/ define, with their single meaning.
SHARED_NAMES = {
    "COLUMNS": "the columns of a statement or a table",
    "DAYS": "a number of days",
    "Direction": "import or export",
    "End": "the last object of an energy answer",
    "Gap": "half-hours that are missing",
    "HALF_HOUR": "thirty minutes",
    "SERIES": "the time series of the database",
    "add_secret": "a route, and the function it calls",
    "change_client": "a route, and the function it calls",
    "create_client": "a route, and the function it calls",
    "create_esco": "a route, and the function it calls",
    "delete_secret": "a route, and the function it calls",
    "energy": "the energy report: its route and its statement",
    "get_client": "a route, and the function it calls",
    "install": "add to the FastAPI application",
    "list_clients": "a route, and the function it calls",
    "list_escos": "a route, and the function it calls",
    "logger": "the module's logger",
    "main": "the entry point of a program",
    "router": "the routes of one room",
    "serve": "run the gateway's server: the command, and the function it calls",
}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def imported(path: Path) -> Iterator[str]:
    """Yield the names that a file imports, and the parts of the modules' names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from (node.module or "").split(".")
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (part for alias in node.names for part in alias.name.split("."))


def defined(path: Path) -> Iterator[str]:
    """Yield the public classes, functions and constants that a file defines at top level."""
    for node in ast.parse(path.read_text()).body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_private_name_is_imported(path: Path) -> None:
    assert not [name for name in imported(path) if is_private(name)]


def test_no_name_means_two_things() -> None:
    places = defaultdict(list)
    for path in MODULES:
        if path.is_relative_to(ROOT / "app"):
            for name in defined(path):
                places[name].append(str(path.relative_to(ROOT)))
    repeated = {name: where for name, where in places.items() if len(where) > 1}
    assert not {
        name: where
        for name, where in repeated.items()
        if not is_private(name) and name not in SHARED_NAMES
    }


def test_every_attack_that_is_told_of_has_a_test() -> None:
    """The tests of an attack begin with its number in SECURITY.md."""
    told = set(re.findall(r"^\| (\d+) \|", (ROOT / "SECURITY.md").read_text(), re.MULTILINE))
    tests = "\n".join(path.read_text() for path in MODULES)
    tried = set(re.findall(r"^(?:async )?def test_(\d+)_", tests, re.MULTILINE))
    assert told == tried
    assert len(told) > 20
