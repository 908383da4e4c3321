"""`flows keys …`: the keys that sign tokens, from a terminal."""

from typing import Annotated

import typer

from app.auth.clients import COMMAND_LINE
from app.auth.keyring import PUBLISH_SECONDS
from app.auth.rotation import list_keys, retire_key, rotate_key
from app.cli.admin import run_as_admin
from app.cli.output import Json, fail, print_json, show
from app.settings import Settings

keys = typer.Typer(help="The keys that sign tokens.", no_args_is_help=True)

KEY_COLUMNS = ("kid", "created_at", "signs_from", "verifies_until")


@keys.command("list")
def keys_list(as_json: Json = False) -> None:
    """List the published keys: since when each signs, until when its tokens are good."""
    show(run_as_admin(list_keys), KEY_COLUMNS, as_json=as_json)


@keys.command("rotate")
def keys_rotate(
    after: Annotated[
        int,
        typer.Option(
            min=PUBLISH_SECONDS, help="Seconds until it signs; every gateway must know it by then."
        ),
    ] = 60,
    as_json: Json = False,
) -> None:
    """Make a new key, publish it, and let it sign once every door knows it.

    This installation's keys before it verify until the last token they signed has expired; those
    of installations with key files of their own go on.
    """
    settings = Settings()
    if settings.keys.signing_key:
        raise fail("the key comes from FLOWS_KEYS_SIGNING_KEY; put a new one there instead")
    made = run_as_admin(
        lambda connection: rotate_key(
            connection,
            COMMAND_LINE,
            settings.key_folder,
            after=after,
            token_seconds=settings.tokens.max_lifetime_seconds,
        )
    )
    if as_json:
        print_json([made])
    else:
        typer.echo(f"{made['kid']} signs in {after} seconds")


# A thumbprint may begin with a dash, and is no option then.
@keys.command("retire", context_settings={"ignore_unknown_options": True})
def keys_retire(
    kid: Annotated[str, typer.Argument(help="Its id, of `flows keys list`.")],
    as_json: Json = False,
) -> None:
    """Refuse every token a key signed, within five seconds: for a key that leaked."""
    retired = run_as_admin(lambda c: retire_key(c, COMMAND_LINE, kid))
    show([retired], KEY_COLUMNS, as_json=as_json)
