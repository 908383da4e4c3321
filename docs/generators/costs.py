"""`python -m docs.generators.costs`: measure docs/how-to/query-patterns.md on the running demo.

The line `Cost: …` of each pattern is replaced. Run it on an idle machine, as it measures times.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg

PAGE = Path(__file__).parents[1] / "how-to" / "query-patterns.md"
SECTION = re.compile(r"^### .*?(?=^##|\Z)", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"^```(bash|sql)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TIMES = 15


def main(home: Path) -> None:
    """Measure every pattern and write its cost into the page."""
    contract = json.loads((home / "demo.json").read_text())
    community = contract["escos"]["wlce"]
    page = PAGE.read_text()
    setup, session = (code for _, code in CODE.findall(page.partition("\n### ")[0]))
    client = httpx.Client(
        base_url=contract["base_url"],
        headers={"Authorization": f"Bearer {community['read_token']}"},
    )
    with client, psycopg.connect(contract["database_url"]) as connection:
        connection.execute(session)

        def measured(section: re.Match[str]) -> str:
            code = dict(CODE.findall(section[0]))
            parts = [
                f"`{_label(path)}` {_of_door(client, path):.0f} ms"
                for path in _paths(setup + code["bash"])
            ]
            parts.append(_of_sql(connection, code["sql"]))
            return re.sub(
                "^Cost: .*$", f"Cost: {', '.join(parts)}.", section[0], flags=re.MULTILINE
            )

        page = SECTION.sub(measured, page)
        connection.rollback()
    PAGE.write_text(page)


def _paths(code: str) -> Iterator[str]:
    """Yield the path of each `get` in the shell code."""
    script = "curl() { printf '%s\\n' \"${@: -1}\" | sed 's,^[^/]*//[^/]*,,'; }\n" + code
    environment = os.environ | {"TOKEN": "", "WRITE_TOKEN": ""}
    said = subprocess.run(
        [shutil.which("bash") or "bash", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    # Writes are measured only in SQL.
    yield from () if "WRITE_TOKEN" in code else said.stdout.splitlines()


def _label(path: str) -> str:
    """Return the path without its query and ids, as `/v1/…/energy`."""
    door, *middle, last = path.partition("?")[0].removeprefix("/rest").strip("/").split("/")
    prefix = "/rest" if path.startswith("/rest") else ""
    return "/".join((f"{prefix}/{door}", *(("…",) if middle else ()), last))


def _of_door(client: httpx.Client, path: str) -> float:
    """Return the shortest response time in ms, which other load has affected least."""
    times = []
    for _ in range(TIMES):
        started = time.perf_counter()
        client.get(path).raise_for_status()
        times.append(1000 * (time.perf_counter() - started))
    return min(times)


def _of_sql(connection: psycopg.Connection[Any], code: str) -> str:
    """Return time, rows, buffers and relations of a statement, as counted by EXPLAIN."""
    *before, statement = (part for part in code.strip().rstrip(";").split(";\n"))
    for part in before:
        connection.execute(part)
    explain = f"explain (analyze, buffers, format json) {statement}"
    plans = [connection.execute(explain).fetchone()[0][0] for _ in range(TIMES)]  # type: ignore[index]
    milliseconds = min(plan["Execution Time"] for plan in plans)
    plan = plans[-1]["Plan"]
    buffers = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    writes = plan["Node Type"] == "ModifyTable"
    rows = max(part["Actual Rows"] for part in (plan["Plans"] if writes else [plan]))
    plural = "" if rows == 1 else "s"
    return f"SQL {milliseconds:.1f} ms ({rows:.0f} row{plural}, {buffers:,} buffers)"


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".flows"))
