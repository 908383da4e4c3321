"""`flows token|keys …`: long-lived tokens, and the keys that sign all of them, from a terminal."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from app.auth import clients
from app.auth.clients import COMMAND_LINE
from app.auth.keyring import PUBLISH_SECONDS, Keyring, load_state, publish
from app.auth.keys import create_key, load_keys
from app.auth.tokens import TENANT_ROLES, Grant, issue
from app.cli.clients import run_as_admin
from app.cli.output import Json, fail, issuer, print_json, show
from app.db.session import Connection
from app.settings import Settings

token = typer.Typer(help="Long-lived tokens for jobs.", invoke_without_command=True)
keys = typer.Typer(help="The keys that sign tokens.", no_args_is_help=True)

KEYS = "select kid, created_at, signs_from, verifies_until from gateway.signing_key"
KEY_COLUMNS = ("kid", "created_at", "signs_from", "verifies_until")


@token.callback()
def token_issue(
    context: typer.Context,
    esco_code: Annotated[str | None, typer.Option("--esco", help="Code of the ESCO.")] = None,
    role: Annotated[str, typer.Option(help="flows (writes) or public_backend.")] = "public_backend",
    days: Annotated[int, typer.Option(help="How long it is valid.", min=1)] = 30,
    name: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    as_json: Json = False,
) -> None:
    """Issue a long-lived token: `flows token --esco wlce --role flows --days 365 --name "sync"`.

    It is printed once, recorded by its id, listed by `flows token list` and revoked by
    `flows token revoke ID`.
    """
    if context.invoked_subcommand:
        return
    if not esco_code or not name:
        raise fail("say --esco CODE and --name TEXT; see `flows token --help`")
    settings = Settings()
    if role not in TENANT_ROLES:
        raise fail(f"--role: {role} is none of flows, public_backend")
    if days > settings.tokens.max_days:
        raise fail(f"--days: at most {settings.tokens.max_days} on this platform")

    async def issued(connection: Connection) -> dict[str, Any]:
        owner = await clients.find_esco(connection, esco_code)
        await _lock_keys(connection)
        key = await _current(connection, settings)
        token_id = str(uuid.uuid4())
        expires_at = datetime.now(UTC) + timedelta(days=days)
        scopes = ("read", "write") if role == "flows" else ("read",)
        await connection.execute(
            "insert into gateway.token (jti, kid, esco, role, name, expires_at)"
            " values (%s, %s, %s, %s, %s, %s)",
            (token_id, key.kid, owner["id"], role, name, expires_at),
        )
        # A key that a rotation is about to replace still signs: it verifies for as long as this.
        await connection.execute(
            "update gateway.signing_key set verifies_until = greatest(verifies_until, %s)"
            " where kid = %s and verifies_until is not null",
            (expires_at, key.kid),
        )
        await clients.record(
            connection, COMMAND_LINE, "token.issue",
            subject=token_id, detail=f"{' '.join(scopes)}; {name}", esco=owner["id"],
        )  # fmt: skip
        grant = Grant(f"token:{token_id}", role, owner["id"], owner["code"], scopes)
        text = issue(key, issuer(settings), grant, seconds=days * 86_400, token_id=token_id)
        return {"jti": token_id, "esco_code": owner["code"], "role": role, "name": name,
                "expires_at": expires_at, "access_token": text}  # fmt: skip

    made = run_as_admin(issued)
    if as_json:
        print_json([made])
    else:
        typer.echo(made["access_token"])


@token.command("list")
def token_list(as_json: Json = False) -> None:
    """List long-lived tokens that have not expired."""

    async def listed(connection: Connection) -> list[dict[str, Any]]:
        cursor = await connection.execute(
            "select t.jti, e.code as esco_code, t.role, t.name, t.created_at, t.expires_at,"
            " r.revoked_at from gateway.token as t left join gateway.escos() as e on e.id = t.esco"
            " left join gateway.revoked_token as r using (jti)"
            " where t.expires_at > now() order by t.created_at"
        )
        return await cursor.fetchall()

    columns = ("jti", "esco_code", "role", "name", "expires_at", "revoked_at")
    show(run_as_admin(listed), columns, as_json=as_json)


@token.command("revoke")
def token_revoke(
    jti: Annotated[str, typer.Argument(help="Its id, of `flows token list`.")],
    as_json: Json = False,
) -> None:
    """Make a token stop working at every door, within five seconds."""

    async def revoked(connection: Connection) -> dict[str, Any]:
        cursor = await connection.execute(
            "select jti, esco, role, name, expires_at from gateway.token where jti = %s", (jti,)
        )
        row = await cursor.fetchone()
        if row is None:
            raise fail(f"no long-lived token {jti} was issued; see `flows token list`")
        ends = row["expires_at"].timestamp()
        await clients.revoke_token(connection, COMMAND_LINE, jti, ends, row["esco"])
        return row

    show([run_as_admin(revoked)], ("jti", "role", "name", "expires_at"), as_json=as_json)


@keys.command("list")
def keys_list(as_json: Json = False) -> None:
    """List the published keys: since when each signs, until when its tokens are good."""

    async def listed(connection: Connection) -> list[dict[str, Any]]:
        cursor = await connection.execute(KEYS + " order by signs_from")
        return await cursor.fetchall()

    show(run_as_admin(listed), KEY_COLUMNS, as_json=as_json)


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
    before = [held.kid for held in load_keys(settings.key_folder)]
    key = create_key(settings.key_folder)

    async def rotated(connection: Connection) -> dict[str, Any]:
        await _lock_keys(connection)
        await publish(connection, [key])
        # A gateway that found the file first has published it to sign sooner.
        await connection.execute(
            "update gateway.signing_key set signs_from = now() + make_interval(secs => %s)"
            " where kid = %s",
            (after, key.kid),
        )
        await connection.execute(
            "update gateway.signing_key as k set verifies_until = greatest("
            " n.signs_from + make_interval(secs => %s),"
            " (select max(t.expires_at) from gateway.token as t where t.kid = k.kid))"
            " from gateway.signing_key as n"
            " where n.kid = %s and k.kid = any(%s) and k.verifies_until is null",
            (settings.tokens.max_lifetime_seconds, key.kid, before),
        )
        await clients.record(
            connection, COMMAND_LINE, "key.rotate", subject=key.kid, detail=f"in {after} seconds"
        )
        return await _published(connection, key.kid)

    made = run_as_admin(rotated)
    if as_json:
        print_json([made])
    else:
        typer.echo(f"{key.kid} signs in {after} seconds")


# A thumbprint may begin with a dash, and is no option then.
@keys.command("retire", context_settings={"ignore_unknown_options": True})
def keys_retire(
    kid: Annotated[str, typer.Argument(help="Its id, of `flows keys list`.")],
    as_json: Json = False,
) -> None:
    """Refuse every token a key signed, within five seconds: for a key that leaked."""

    async def retired(connection: Connection) -> dict[str, Any]:
        await _lock_keys(connection)
        others = await connection.execute(
            "select from gateway.signing_key where kid <> %s and verifies_until is null", (kid,)
        )
        if not await others.fetchall():
            raise fail("this is the only key that signs; `flows keys rotate` first")
        done = await connection.execute(
            "update gateway.signing_key set verifies_until = now() where kid = %s", (kid,)
        )
        if done.rowcount == 0:
            raise fail(f"there is no key {kid}; see `flows keys list`")
        await connection.execute(
            "update gateway.signing_key set signs_from = now() where verifies_until is null"
        )
        await clients.record(connection, COMMAND_LINE, "key.retire", subject=kid)
        return await _published(connection, kid)

    show([run_as_admin(retired)], KEY_COLUMNS, as_json=as_json)


async def _published(connection: Connection, kid: str) -> dict[str, Any]:
    cursor = await connection.execute(KEYS + " where kid = %s", (kid,))
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101  (just written)
    return row


async def _lock_keys(connection: Connection) -> None:
    """One at a time issues a long-lived token, rotates or retires; gateways read on."""
    await connection.execute("lock table gateway.signing_key in share row exclusive mode")


async def _current(connection: Connection, settings: Settings) -> Any:
    found = load_keys(settings.key_folder, settings.signing_key)
    await publish(connection, found)
    keyring = Keyring(found)
    keyring.update(await load_state(connection))
    return keyring.current()
