"""Findings of an examination, as lines with their mends or as JSON, and the exit code."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import typer

from app.cli.output import echo, print_json
from app.doctor.finding import Finding


def report(findings: Sequence[Finding], summary: str, *, as_json: bool, **facts: Any) -> None:
    """Print findings, and the summary with `{faults}` filled in; exit with 1 if any is a fault."""
    faults = sum(finding.level == "fault" for finding in findings)
    if as_json:
        told = {"ok": not faults, **facts, "findings": [asdict(finding) for finding in findings]}
        print_json(told)
    else:
        for finding in findings:
            echo(f"{finding.level}: {finding.check}: {finding.text}")
            echo(f"    {finding.mend}")
        echo(summary.format(faults=faults, warnings=len(findings) - faults))
    if faults:
        raise typer.Exit(1)
