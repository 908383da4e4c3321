"""The TypeScript client compiles under strict, signs in, pages, and throws what is refused."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Stack

PROGRAM = """
import { energy, flows, FlowsError, type Rows, type Schemas } from "./index.js";
declare const process: { env: Record<string, string> };

const { BASE, ID, SECRET, FROM, TO } = process.env;
const client = flows(BASE!, { clientId: ID!, clientSecret: SECRET! });
const period = { period_from: FROM!, period_to: TO! };
async function all(limit?: number): Promise<Schemas["EnergyRow"][]> {
    const rows = [];
    const query = { ...period, granularity: "P1D" as const, ...(limit ? { limit } : {}) };
    for await (const row of energy(client, query)) rows.push(row);
    return rows;
}
const [pages, whole] = [await all(7), await all()];
console.log(whole.length > 14, JSON.stringify(pages) === JSON.stringify(whole));
const { data } = await client.GET("/rest/v1/meter_registry", {
    params: { query: { order: "serial", limit: 1 } },
});
const rows = data as Rows<"/rest/v1/meter_registry">;
console.log(rows[0]?.serial);
// @ts-expect-error  there is no such path
await client.GET("/v1/nothing").catch((error: FlowsError) => console.log(error.status, error.code));
const wrong = flows(BASE!, { clientId: ID!, clientSecret: "wrong" });
await wrong.GET("/v1/latest").catch((error: FlowsError) => console.log(error.status, error.code));
"""


def run(*command: Any, **options: Any) -> str:
    """Run a program that must succeed; return what it printed."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_typed_and_does_what_its_page_says(
    stack: Stack, generated: Path, npm_tools: Path
) -> None:
    folder = generated / "typescript"
    (folder / "src/program.ts").write_text(PROGRAM)
    npm, node = shutil.which("npm"), shutil.which("node")
    try:
        run(npm, "install", "--no-audit", "--no-fund", "--omit", "dev", cwd=folder)
    except AssertionError as refused:
        pytest.skip(f"npm cannot install openapi-fetch: {refused}")
    run(npm_tools / "node_modules/.bin/tsc", cwd=folder)
    esco = stack.contract["escos"]["wlce"]
    period = stack.period(20, 1)
    environment = os.environ | {
        "BASE": stack.contract["base_url"], "ID": esco["client_id"],
        "SECRET": esco["client_secret"], "FROM": period["period_from"], "TO": period["period_to"],
    }  # fmt: skip
    printed = run(node, folder / "dist/program.js", env=environment)
    assert printed.splitlines() == [
        "true true",
        "WLCE0001",
        "404 not_found",
        "401 invalid_client",
    ]
