"""The `flows` command."""

import json
from typing import Annotated, Any

import psycopg
import typer
import uvicorn
from rich.console import Console

from app.auth.keys import load_or_create, publish
from app.ops.migrate import MigrationError, migrate
from app.settings import Settings

app = typer.Typer(help="The Flows gateway.", no_args_is_help=True, add_completion=False)
db = typer.Typer(help="The database: migrations and state.", no_args_is_help=True)
app.add_typer(db, name="db")

problems = Console(stderr=True, soft_wrap=True, highlight=False)


def fail(message: str) -> typer.Exit:
    """Print one line for a person and return the exit."""
    problems.print(f"[red]error:[/red] {message}", markup=True)
    return typer.Exit(1)


def admin_url(settings: Settings) -> str:
    """The administrator's URL: from the environment, else of the embedded stack in FLOWS_HOME."""
    if settings.database.admin_url:
        return settings.database.admin_url.get_secret_value()
    demo = settings.home / "demo.json"
    if demo.exists():
        url: str = json.loads(demo.read_text())["database_url"]
        return url
    raise fail("set FLOWS_DATABASE_ADMIN_URL to an administrator's login, or run `flows up --demo`")


@app.command()
def serve() -> None:
    """Run the gateway alone, against the database and PostgREST that the environment names."""
    from app.main import create_app  # the other commands start without the web framework

    settings = Settings()
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=10,
    )


@app.command()
def up(
    demo: Annotated[bool, typer.Option("--demo", help="Load demo data, print tokens.")] = False,
    with_parent: Annotated[
        bool, typer.Option("--with-parent", help="Stop when the starting process ends.")
    ] = False,
) -> None:
    """Start PostgreSQL, PostgREST and the gateway here, until Ctrl-C.

    State is kept in FLOWS_HOME (default .flows); the gateway listens on FLOWS_PORT (default 8000).
    """
    from app.runtime.process import StackError
    from app.runtime.stack import Stack

    settings = Settings()
    stack = None
    try:
        stack = Stack(settings.home, host=settings.host, port=settings.port)
        contract = stack.start(demo=demo)
        _greet(contract)
        stack.run(with_parent=with_parent)
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
    for code, esco in escos.items():
        typer.echo(f"\n{code} read token:\n{esco['read_token']}")
    for esco in list(escos.values())[:1]:
        token = f'-H "Authorization: Bearer {esco["read_token"]}"'
        typer.echo(f'\ncurl {token} "{base_url}/rest/v1/meter_registry?select=serial,name&limit=3"')
        typer.echo(
            f'curl {token} "{base_url}/rest/v1/circuit_interval_daily?order=day.desc&limit=3"'
        )
        typer.echo(
            f"curl -u {esco['client_id']}:{esco['client_secret']} "
            f"-d grant_type=client_credentials {base_url}/auth/token\n"
        )
    typer.echo("Ctrl-C stops everything.")


@db.command("migrate")
def db_migrate() -> None:
    """Apply what is missing of sql/ to FLOWS_DATABASE_ADMIN_URL; running it again changes nothing.

    The roles flows_gateway and authenticator get the passwords that FLOWS_DATABASE_URL and
    FLOWS_POSTGREST_DATABASE_URL carry; the key that signs tokens is made where there is none, and
    its public half is published for PostgREST.
    """
    settings = Settings()
    logins = tuple(
        url.get_secret_value()
        for url in (settings.database.url, settings.postgrest.database_url)
        if url
    )
    try:
        engine = migrate(admin_url(settings), logins=logins)
        with psycopg.connect(admin_url(settings)) as connection:
            publish(connection, load_or_create(settings.home / "keys"))
    except (MigrationError, psycopg.Error) as error:
        raise fail(str(error).strip()) from None
    typer.echo(f"up to date ({engine})")


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
