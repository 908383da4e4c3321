"""`flows up`: the whole stack on one machine."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from app.backup.folder import BackupFolder
from app.cli.output import fail
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
        contract = stack.start(demo=demo)
        _greet(contract)
        stack.run()
    except (StackError, MigrationError) as error:
        raise fail(str(error)) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    finally:
        if stack:
            stack.stop()


def _greet(contract: dict[str, Any]) -> None:
    base_url = contract["base_url"]
    typer.echo(f"ready {base_url}")
    typer.echo(f"docs: {base_url}/docs")
    escos = contract.get("escos", {})
    for code, community in escos.items():
        typer.echo(f"\n{code} read token:\n{community['read_token']}")
    today = datetime.now(UTC).date()
    week = f"period_from={today - timedelta(days=7)}T00:00Z&period_to={today}T00:00Z"
    for community in list(escos.values())[:1]:
        token = f'-H "Authorization: Bearer {community["read_token"]}"'
        typer.echo(f'\ncurl {token} "{base_url}/rest/v1/meter_registry?select=serial,name&limit=3"')
        typer.echo(f'curl {token} "{base_url}/v1/energy?group_by=esco&granularity=P1D&{week}"')
        typer.echo(
            f"curl -u {community['client_id']}:{community['client_secret']} "
            f"-d grant_type=client_credentials {base_url}/auth/token\n"
        )
    typer.echo("Ctrl-C stops everything.")
