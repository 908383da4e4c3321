"""`flows token …`: management of long-lived tokens."""

from typing import Annotated

import typer

from app.auth.clients import COMMAND_LINE
from app.auth.keys import load_keys
from app.auth.long_lived import issue_long_lived, list_long_lived, revoke_long_lived
from app.auth.tokens import TENANT_ROLES
from app.cli.admin import issuer, run_as_admin
from app.cli.output import Json, echo, fail, print_json, show
from app.settings import Settings

token = typer.Typer(help="Long-lived tokens for jobs.", invoke_without_command=True)


@token.callback()
def token_issue(
    context: typer.Context,
    esco_code: Annotated[str | None, typer.Option("--esco", help="Code of the ESCO.")] = None,
    role: Annotated[
        str, typer.Option(help="flows (writes) or public_backend (reads).")
    ] = "public_backend",
    days: Annotated[int, typer.Option(help="Days until it expires.", min=1)] = 30,
    name: Annotated[str | None, typer.Option(help="Purpose of the token.")] = None,
    as_json: Json = False,
) -> None:
    """Issue a long-lived token: `flows token --esco wlce --role flows --days 365 --name "sync"`.

    The token is printed only once. `flows token list` shows its id, and `flows token revoke ID`
    revokes it.
    """
    if context.invoked_subcommand:
        return
    if not esco_code or not name:
        raise fail("--esco CODE and --name TEXT are required; see `flows token --help`")
    settings = Settings()
    if role not in TENANT_ROLES:
        raise fail(f"--role: {role} is neither flows nor public_backend")
    if days > settings.tokens.max_days:
        raise fail(f"--days: must be at most {settings.tokens.max_days} on this platform")
    made = run_as_admin(
        lambda connection: issue_long_lived(
            connection,
            COMMAND_LINE,
            lambda: load_keys(settings.key_folder, settings.signing_key),
            issuer(settings),
            esco_code=esco_code,
            role=role,
            name=name,
            days=days,
        )
    )
    if as_json:
        print_json([made])
    else:
        echo(made["access_token"])


@token.command("list")
def token_list(as_json: Json = False) -> None:
    """List long-lived tokens that have not expired."""
    columns = ("jti", "esco_code", "role", "name", "expires_at", "revoked_at")
    show(run_as_admin(list_long_lived), columns, as_json=as_json)


@token.command("revoke")
def token_revoke(
    jti: Annotated[str, typer.Argument(help="Id of the token, from `flows token list`.")],
    as_json: Json = False,
) -> None:
    """Revoke a token; it stops working within five seconds."""
    revoked = run_as_admin(lambda c: revoke_long_lived(c, COMMAND_LINE, jti))
    show([revoked], ("jti", "role", "name", "expires_at"), as_json=as_json)
