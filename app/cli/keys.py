"""`flows keys …`: management of the keys that sign tokens."""

from typing import Annotated

import typer

from app.auth.clients import COMMAND_LINE
from app.auth.keyring import PUBLISH_SECONDS
from app.auth.rotation import list_keys, retire_key, rotate_key
from app.cli.admin import run_as_admin
from app.cli.output import Json, echo, fail, print_json, show
from app.settings import Settings

keys = typer.Typer(help="The keys that sign tokens.", no_args_is_help=True)

KEY_COLUMNS = ("kid", "created_at", "signs_from", "verifies_until")


@keys.command("list")
def keys_list(as_json: Json = False) -> None:
    """List the published keys, with the time each starts to sign and stops to verify tokens."""
    show(run_as_admin(list_keys), KEY_COLUMNS, as_json=as_json)


@keys.command("rotate")
def keys_rotate(
    after: Annotated[
        int,
        typer.Option(
            min=PUBLISH_SECONDS, help="Seconds until it signs; all gateways must load it by then."
        ),
    ] = 60,
    as_json: Json = False,
) -> None:
    """Create and publish a new key, which signs tokens once all gateways and PostgREST know it.

    Older keys of this installation verify tokens until the last one they signed has expired. Keys
    of installations with their own key files are not affected.
    """
    settings = Settings()
    if settings.keys.signing_key:
        raise fail("the key comes from FLOWS_KEYS_SIGNING_KEY; set that to a new key instead")
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
        echo(f"{made['kid']} signs in {after} seconds")


# A key's id may begin with a dash and must not be taken for an option.
@keys.command("retire", context_settings={"ignore_unknown_options": True})
def keys_retire(
    kid: Annotated[str, typer.Argument(help="Id of the key, from `flows keys list`.")],
    as_json: Json = False,
) -> None:
    """Retire a leaked key: all tokens that it signed are refused within five seconds."""
    retired = run_as_admin(lambda c: retire_key(c, COMMAND_LINE, kid))
    show([retired], KEY_COLUMNS, as_json=as_json)
