"""`python -m tests.bench`: start a stack, run the benchmarks, print the figures."""

import argparse
import importlib
import pkgutil
import sys

import tests.bench
from tests.bench.report import Report
from tests.conftest import running_stack


def benchmarks() -> dict[str, str]:
    """Return name → module of every benchmark in this folder."""
    found = {}
    for module in pkgutil.iter_modules(tests.bench.__path__):
        name = f"tests.bench.{module.name}"
        if not module.name.startswith("_") and hasattr(importlib.import_module(name), "run"):
            found[module.name] = name
    return found


def main() -> int:
    """Run the selected benchmarks; return 1 if a limit was missed."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--only", nargs="*", choices=sorted(benchmarks()), help="these alone")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    asked = parser.parse_args()
    report = Report()
    # An issuer at the loopback address vouches for the person whose token is exchanged.
    with running_stack(FLOWS_ISSUERS_PRIVATE_NETWORKS="127.0.0.1/32") as stack:
        for name, module in sorted(benchmarks().items()):
            if not asked.only or name in asked.only:
                report.bench = name
                print(f"{name} …", file=sys.stderr, flush=True)
                importlib.import_module(module).run(stack, report)
    print(report.as_json() if asked.json else report.as_table())
    return 1 if report.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
