"""Client generators accept the document; the clients they generate compile and make a call."""

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Stack

Document = dict[str, Any]
PYTHON_GENERATOR = "openapi-python-client==0.29.1"
SECONDS = 240

TYPESCRIPT = """
import type { components, paths } from "./flows.js";
declare const process: { env: Record<string, string> };

type Schemas = components["schemas"];
type Listing = paths["/rest/v1/meter_registry"]["get"];
type Rows = Listing["responses"]["200"]["content"]["application/json"];

const filters: Listing["parameters"]["query"] = { serial: "eq.WLCE0001", limit: 1 };
const answer = await fetch(
    `${process.env.BASE}/rest/v1/meter_registry?serial=${filters?.serial}&limit=${filters?.limit}`,
    { headers: { Authorization: `Bearer ${process.env.TOKEN}` } },
);
const rows: Rows = await answer.json();
const meter = rows[0] as Schemas["MeterRegistry"];
const serial: string | null = meter.serial;
const hardware: string | null = meter.hardware;
const complete: Schemas["MeterRegistryInsert"] = { serial: "EML1", name: "Plot 1" };
// @ts-expect-error  a column that can be null is not a string
const never: string = meter.hardware;
// @ts-expect-error  a new circuit needs a type
const incomplete: Schemas["CircuitsInsert"] = { name: "Plot 1" };
// @ts-expect-error  not one of the values that the constraint allows
const mode: Schemas["MeterRegistry"]["mode"] = "other";
console.log(serial, hardware, complete.name);
"""

PYTHON = """
import os
from made.client import AuthenticatedClient
from made.api.energy import get_energy
from made.api.meters import create_meter_registry, list_meter_registry
from made.models import MeterRegistry, MeterRegistryInsert

client = AuthenticatedClient(base_url=os.environ["BASE"], token=os.environ["TOKEN"])
rows = list_meter_registry.sync(client=client, serial="eq.WLCE0001", limit=1)
assert isinstance(rows[0], MeterRegistry), rows
print(rows[0].serial, rows[0].hardware, MeterRegistryInsert(serial="EML1", name="Plot 1").name)
"""


def environment(stack: Stack) -> dict[str, str]:
    """Return the environment that the programs with generated clients read."""
    token = stack.contract["escos"]["wlce"]["read_token"]
    return os.environ | {"BASE": stack.contract["base_url"], "TOKEN": token}


def run(*command: Any, **options: Any) -> str:
    """Run a program that must succeed; return what it printed."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_typescript_types_compile_and_fit_the_answer(
    stack: Stack,
    document: Callable[..., Document],
    saved: Callable[[Document], Path],
    npm_tools: Path,
    tmp_path: Path,
) -> None:
    tools = npm_tools / "node_modules" / ".bin"
    file = saved(document("wlce", "write"))
    run(tools / "openapi-typescript", file, "-o", tmp_path / "flows.d.ts")
    (tmp_path / "call.mts").write_text(TYPESCRIPT)
    options = "--strict --target es2022 --module nodenext --lib es2022,dom --skipLibCheck false"
    run(tools / "tsc", *options.split(), "call.mts", cwd=tmp_path)
    printed = run(shutil.which("node"), "call.mjs", cwd=tmp_path, env=environment(stack))
    assert printed.split() == ["WLCE0001", "null", "Plot", "1"]


@pytest.fixture(scope="module")
def python_generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a separate environment with the generator, whose pins differ from ours."""
    folder = tmp_path_factory.mktemp("generator")
    venv.create(folder)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", folder / "bin/python", "install", "--quiet",
         "--no-compile", PYTHON_GENERATOR],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"pip cannot install {PYTHON_GENERATOR}: {done.stderr.strip()[-200:]}")
    return folder / "bin"


def test_a_python_client_is_complete_and_makes_a_call(
    stack: Stack,
    document: Callable[..., Document],
    saved: Callable[[Document], Path],
    python_generator: Path,
    tmp_path: Path,
) -> None:
    file = saved(document("wlce", "write"))
    run(
        python_generator / "openapi-python-client", "generate", "--fail-on-warning",
        "--path", file, "--output-path", tmp_path / "made", "--meta", "none",
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    run(python_generator / "python", "-m", "compileall", "-q", tmp_path / "made")
    printed = run(python_generator / "python", "-c", PYTHON, cwd=tmp_path, env=environment(stack))
    assert printed.split() == ["WLCE0001", "None", "Plot", "1"]
