"""`flows doctor`: examine the whole deployment."""

from typing import Annotated

import typer

from app.cli.admin import admin_url, database_errors, issuer
from app.cli.findings import report
from app.cli.output import Json
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
    report(found, "{faults} faults, {warnings} warnings", as_json=as_json)
