"""schemathesis over the document, as two ESCOs that read and write; `make fuzz` runs longer.

No response is a 5xx, breaks its schema or ignores a missing token, and a third ESCO, which is not
fuzzed, has the same rows afterwards.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import Stack, running_stack

SECONDS = int(os.environ.get("FLOWS_FUZZ_SECONDS", "25"))
CALLERS = (("wlce", "read"), ("wlce", "write"), ("hmce", "read"), ("hmce", "write"))
BYSTANDER = "bfce"
SLOW = re.compile(r'"seconds":\d\d')  # requests of ten seconds and more
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "ignored_auth",
)


@pytest.fixture(scope="module")
def fuzzed_stack() -> Iterator[Stack]:
    """A separate stack, because writes to it remain."""
    # A machine that stands still for seconds keeps requests waiting: that is no finding.
    with running_stack(FLOWS_DATABASE_POOL_TIMEOUT="40") as running:
        yield running


def rows_of(stack: Stack, esco: str) -> dict[str, Any]:
    """Return a digest of all rows of an ESCO, by relation."""
    with psycopg.connect(stack.contract["database_url"]) as connection:
        relations = connection.execute(
            "select relname from pg_class where relnamespace = 'api'::regnamespace"
            " and relkind = 'v' and has_table_privilege('flows', oid, 'select')"
        ).fetchall()
        connection.execute(
            "select set_config('app.current_esco', %s, true), set_config('role', 'flows', true)",
            (stack.contract["escos"][esco]["id"],),
        )
        return {
            relation: connection.execute(
                "select count(*), md5(string_agg(t::text, ',' order by t::text))"
                f" from api.{relation} as t"
            ).fetchone()
            for (relation,) in relations
        }


def fuzz(stack: Stack, esco: str, kind: str, folder: Path) -> subprocess.Popen[str]:
    """Start schemathesis with a token and the document that the token sees."""
    with stack.client(esco, kind) as client:
        document = client.get("/openapi.json").json()
    file = folder / f"{esco}-{kind}.json"
    file.write_text(json.dumps(document))
    token = stack.contract["escos"][esco][f"{kind}_token"]
    return subprocess.Popen(
        [
            str(Path(sys.executable).parent / "schemathesis"),
            *("run", str(file), "--url", stack.contract["base_url"]),
            *("--header", f"Authorization: Bearer {token}"),
            *("--checks", ",".join(CHECKS), "--max-time", str(SECONDS)),
            *("--phases", "examples,coverage,fuzzing", "--suppress-health-check", "all"),
            *("--continue-on-failure", "--generation-database", "none", "--no-color"),
            # Longer than anything in the gateway may last, so that it can say what did.
            *("--warnings", "off", "--request-timeout", "50"),
        ],
        cwd=folder,
        env=os.environ
        | {"SCHEMATHESIS_HOOKS": "tests.openapi.fuzz_hooks"}
        | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_no_answer_breaks_the_contract(fuzzed_stack: Stack, tmp_path: Path) -> None:
    before = rows_of(fuzzed_stack, BYSTANDER)
    assert before["meter_registry"][0] > 1
    runs = {caller: fuzz(fuzzed_stack, *caller, tmp_path) for caller in CALLERS}
    said = {caller: run.communicate(timeout=SECONDS + 120)[0] for caller, run in runs.items()}
    failed = {caller: said[caller] for caller, run in runs.items() if run.returncode}
    logs = fuzzed_stack.home / "logs"
    gateway = (logs / "gateway.log").read_text().splitlines()
    told = [line for line in gateway if '"error"' in line or SLOW.search(line)]
    told += (logs / "postgres.log").read_text().splitlines()[-40:]
    assert not failed, "\n\n".join([*(f"{own}:\n{text}" for own, text in failed.items()), *told])
    for caller, text in said.items():
        assert "generated" in text, (caller, text)
    assert rows_of(fuzzed_stack, BYSTANDER) == before


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE"])
def test_a_write_to_a_read_only_view_is_the_callers_error(stack: Stack, method: str) -> None:
    with stack.client("wlce", "write") as client:
        answer = client.request(
            method, "/rest/v1/meters_offline_all?serial=eq.none", json={"serial": "none"}
        )
    assert 400 <= answer.status_code < 500, answer.text
