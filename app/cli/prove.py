"""`flows prove`: try every way from one ESCO into another's rows, on the live deployment."""

from typing import Annotated

import typer

from app.cli.admin import admin_url, database_errors, issuer
from app.cli.findings import report
from app.cli.output import Json
from app.doctor.prove import prove_isolation
from app.settings import Settings


def prove(
    url: Annotated[
        str | None, typer.Option("--url", help="Gateway to ask, by default FLOWS_PUBLIC_URL.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Prove that no ESCO reads or writes another's rows; exit with 1 if one does.

    Two ESCOs of a few rows are made, and removed in the end: canaries, of which one tries every
    relation and verb on the other's rows, in the database, at /rest/v1 and at /v1. Everything that
    it is shown has to be its own, so all ESCOs of the deployment count. Rows of theirs are never
    written. Each finding names the relation. /metrics tells the last result: run it on a timer.
    """
    settings = Settings()
    with database_errors():
        proof = prove_isolation(admin_url(settings), settings, issuer(settings), url)
    report(
        proof.findings,
        f"{proof.tried} ways tried in {proof.seconds:.1f} s, {{faults}} faults",
        as_json=as_json,
        tried=proof.tried,
        seconds=round(proof.seconds, 3),
    )
