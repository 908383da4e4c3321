"""The Python client signs in, pages, writes, and raises what the API refuses."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import Stack

PROGRAM = """
import os
from flows_client import Flows, FlowsError
from flows_client.types import EnergyRow

period = {"period_from": os.environ["FROM"], "period_to": os.environ["TO"]}
with Flows(os.environ["BASE"], os.environ["ID"], os.environ["SECRET"]) as flows:
    pages: list[EnergyRow] = list(flows.energy(granularity="P1D", limit=7, **period))
    whole = list(flows.energy(granularity="P1D", **period))
    print(len(whole) > 14, pages == whole, whole[0]["import_kwh"] is not None)

    serials = [meter["serial"] for meter in flows.rows("meter_registry", order="serial", page=5)]
    print(len(serials) > 5, serials == sorted(set(serials)))
    first = f"meters/{serials[0]}"
    print({row["meter"] for row in flows.energy(first, group_by="meter", **period)} == {serials[0]})
    print(len(flows.latest()["rows"]) == len(serials), flows.balance(**period)["timezone"])
    print(len(flows.peak(top=3, **period)["rows"]) > 0, len(flows.profile(**period)["rows"]) > 0)
    print(bool(flows.completeness(first, **period)["rows"]))

    (register, *_) = flows.rows("meter_registers", order="register_id")
    half_hour = {"register_id": register["register_id"], "import_kwh": 0.25,
                 "timestamp": "2001-02-03T04:30:00Z"}
    for kwh in (0.25, 0.5):
        flows.insert("register_interval_hh", [half_hour | {"import_kwh": kwh}],
                     on_conflict="register_id,timestamp")
    (written,) = flows.rows("register_interval_hh", order="timestamp",
                            timestamp="eq.2001-02-03T04:30:00Z")
    print(written["import_kwh"])
    flows.http.delete("/rest/v1/register_interval_hh?timestamp=eq.2001-02-03T04:30:00Z")

    # A token that the gateway refuses is asked for again.
    flows.http.auth._token += "x"
    print(len(list(flows.rows("escos", order="code"))))
    for refused in (
        lambda: list(flows.energy(granularity="P1X", **period)),
        lambda: list(flows.rows("nothing", order="id")),
    ):
        try:
            refused()
        except FlowsError as error:
            print(error.status, error.code is not None, error.request_id is not None)

try:
    with Flows(os.environ["BASE"], os.environ["ID"], "wrong") as flows:
        flows.latest()
except FlowsError as error:
    print(error.status, error.code)
"""
PRINTED = """True True True
True True
True
True Europe/London
True True
True
0.5
1
422 True True
404 True True
401 invalid_client
"""


def test_it_is_typed_and_does_what_its_page_says(
    stack: Stack, generated: Path, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    package = generated / "python"
    esco = stack.contract["escos"]["wlce"]
    period = stack.period(20, 1)
    environment = os.environ | {
        "PYTHONPATH": str(package), "MYPYPATH": str(package), "BASE": stack.contract["base_url"],
        "ID": esco["client_id"], "SECRET": esco["client_secret"],
        "FROM": period["period_from"], "TO": period["period_to"],
    }  # fmt: skip
    ran = subprocess.run(
        [sys.executable, program], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.stderr == ""
    assert ran.stdout == PRINTED
    typed = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache",
         package / "flows_client"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert typed.returncode == 0, typed.stdout
