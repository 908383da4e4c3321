"""`flows doctor`: examine the whole deployment."""

from dataclasses import asdict
from typing import Annotated

import typer

from app.cli.admin import admin_url, database_errors, issuer
from app.cli.output import Json, echo, print_json
from app.doctor.examine import examine_deployment
from app.settings import Settings


def doctor(
    gateways: Annotated[
        int, typer.Option(min=1, help="Gateway processes that share the database's connections.")
    ] = 1,
    as_json: Json = False,
) -> None:
    """Examine the whole deployment; print each finding with its mend, and exit with 1 if any harms.

    It compares the database's objects (policies, grants, triggers, views, functions, indexes) with
    what `flows db migrate` made, and looks at versions, roles, keys, clocks, TLS, connections,
    archive and backups, retention, statistics, mappings, registers, partitions and disks. It
    changes nothing. A fault harms callers or data; a warning, which does not count for the exit
    code, will.
    """
    settings = Settings()
    with database_errors():
        url = admin_url(settings)
        found = examine_deployment(url, settings, gateway=issuer(settings), gateways=gateways)
    faults = [finding for finding in found if finding.level == "fault"]
    if as_json:
        print_json({"ok": not faults, "findings": [asdict(finding) for finding in found]})
    else:
        for finding in found:
            echo(f"{finding.level}: {finding.check}: {finding.text}")
            echo(f"    {finding.mend}")
        echo(f"{len(faults)} faults, {len(found) - len(faults)} warnings")
    if faults:
        raise typer.Exit(1)
