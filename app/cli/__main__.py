"""The `flows` command, assembled from the modules of this package."""

import typer

from app.cli.backup import backup
from app.cli.clients import client
from app.cli.db import db
from app.cli.demo import demo
from app.cli.doctor import doctor
from app.cli.escos import esco
from app.cli.import_ import import_file
from app.cli.keys import keys
from app.cli.meters import meter
from app.cli.output import fail
from app.cli.people import member, public_app, trusted
from app.cli.serve import serve
from app.cli.tokens import token
from app.cli.up import up
from app.cli.upkeep import add_upkeep
from app.cli.version import options

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
)
app.callback()(options)
app.command()(serve)
app.command()(up)
app.command("import")(import_file)
app.command()(doctor)
app.add_typer(demo, name="demo")
add_upkeep(db)
app.add_typer(db, name="db")
app.add_typer(esco, name="esco")
app.add_typer(meter, name="meter")
app.add_typer(client, name="client")
app.add_typer(trusted, name="issuer")
app.add_typer(member, name="member")
app.add_typer(public_app, name="app")
app.add_typer(token, name="token")
app.add_typer(keys, name="keys")
app.add_typer(backup, name="backup")


def main() -> None:
    """Run the console script; print a refusal to start as a one-line error."""
    try:
        app()
    except SystemExit as refusal:
        if not isinstance(refusal.code, str):
            raise
        fail(refusal.code)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
