"""`flows up`: the whole stack on one machine."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from app.backup.folder import BackupFolder
from app.cli.demo import flows_command
from app.cli.output import echo, fail
from app.db.migrate import MigrationError
from app.embedded.process import StackError, end_with
from app.embedded.stack import Stack
from app.settings import Settings


def up(
    demo: Annotated[bool, typer.Option("--demo", help="Load demo data, print tokens.")] = False,
    parent: Annotated[
        int | None, typer.Option(help="Stop when this parent process, given by its id, ends.")
    ] = None,
) -> None:
    """Run PostgreSQL, PostgREST and the gateway on this machine until Ctrl-C.

    State is kept in FLOWS_HOME (default .flows); the gateway listens on FLOWS_PORT (default 8000).
    """
    settings = Settings()
    stack = None
    if parent is not None:
        end_with(parent)
    try:
        archive = settings.backup.folder and BackupFolder(settings.backup.folder).wal
        stack = Stack(settings.home, host=settings.host, port=settings.port, archive=archive)
        contract = stack.start(demo=demo, settings=settings)
        _greet(contract, settings.home)
        stack.run()
    except (StackError, MigrationError) as error:
        raise fail(str(error)) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    finally:
        if stack:
            stack.stop()


def _greet(contract: dict[str, Any], home: Path) -> None:
    """Print the ready line, then how to sign in and to ask: twelve lines on a terminal."""
    base_url, escos = contract["base_url"], contract.get("escos", {})
    flows = flows_command(home)
    echo(f"ready {base_url}")
    echo(f"try   {base_url}/docs")
    if not escos:
        echo(f"\nFirst: {flows} esco create CODE NAME, then {flows} client create --help")
        echo("Ctrl-C stops everything.")
        return
    code = "wlce" if "wlce" in escos else next(iter(escos))
    client = escos[code]
    today = datetime.now(UTC).date()
    week = f"period_from={today - timedelta(days=7)}T00:00Z&period_to={today}T00:00Z"
    others = ", ".join(other for other in escos if other != code)
    asked = (
        "/rest/v1/meter_registry?select=serial,name&limit=3",
        f"/v1/energy?group_by=esco&granularity=P1D&{week}",
        "/v1/latest",
    )
    echo(f"sign in there (Authorize) as {client['client_id']}, secret {client['client_secret']}")
    if identity := contract.get("identity"):
        staff, residents = (" or ".join(identity[kind]) for kind in ("people", "residents"))
        echo(f"or (Sign in) as {staff} of the staff, or {residents}, a resident; no passwords")
    echo("\nIn a second terminal:")
    echo(f"  TOKEN=$({flows} demo token {code})")
    for path in asked:
        echo(f'  curl -H "Authorization: Bearer $TOKEN" "{base_url}{path}"')
    echo(f"Also {others}; all ids, secrets and tokens: {home / 'demo.json'}")
    echo("Ctrl-C stops everything.")
