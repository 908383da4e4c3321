"""`flows esco|client|token|keys …`: who may come in, from a terminal."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar

import psycopg
import typer
from psycopg.rows import dict_row

from app.auth import store
from app.auth.keys import create_key, load_keys
from app.auth.state import PUBLISH_SECONDS, Keyring, load_state, publish
from app.auth.store import COMMAND_LINE, Connection
from app.auth.tokens import LIFETIME_SECONDS, TENANT_ROLES, Grant, issue
from app.errors import Problem
from app.settings import Settings
from app.terminal import admin_url, fail, issuer, show

esco = typer.Typer(help="Energy communities.", no_args_is_help=True)
client = typer.Typer(help="Clients: machines that may ask for tokens.", no_args_is_help=True)
token = typer.Typer(help="Long-lived tokens for jobs.", invoke_without_command=True)
keys = typer.Typer(help="The keys that sign tokens.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Result = TypeVar("Result")


def run(work: Callable[[Connection], Awaitable[Result]]) -> Result:
    """Run work in one transaction as the administrator; its problems are one line."""

    async def connected() -> Result:
        url = admin_url(Settings())
        async with await psycopg.AsyncConnection.connect(url, row_factory=dict_row) as connection:
            return await work(connection)

    try:
        return asyncio.run(connected())
    except Problem as problem:
        raise fail(problem.detail or problem.title) from None
    except psycopg.Error as error:
        raise fail(str(error).strip()) from None


ESCO_COLUMNS = ("code", "name", "id", "disabled_at")
CLIENT_COLUMNS = ("id", "esco_code", "name", "scopes", "last_used_at", "disabled_at")


@esco.command("list")
def esco_list(as_json: Json = False) -> None:
    """List ESCOs."""
    show(run(store.list_escos), ESCO_COLUMNS, as_json=as_json)


@esco.command("create")
def esco_create(code: str, name: str, as_json: Json = False) -> None:
    """Make an ESCO with a short CODE and a NAME."""
    made = run(lambda connection: store.create_esco(connection, COMMAND_LINE, code, name))
    show([made], ESCO_COLUMNS, as_json=as_json)


@esco.command("disable")
def esco_disable(code: str) -> None:
    """Stop every client and token of an ESCO, within five seconds."""
    run(lambda c: store.set_esco_disabled(c, COMMAND_LINE, code, disabled=True))


@esco.command("enable")
def esco_enable(code: str) -> None:
    """Let an ESCO's clients and tokens work again."""
    run(lambda c: store.set_esco_disabled(c, COMMAND_LINE, code, disabled=False))


@client.command("list")
def client_list(as_json: Json = False) -> None:
    """List clients."""
    show(run(lambda c: store.list_clients(c, COMMAND_LINE)), CLIENT_COLUMNS, as_json=as_json)


@client.command("create")
def client_create(
    name: Annotated[str, typer.Argument(help="What the client is.")],
    esco_code: Annotated[
        str | None, typer.Option("--esco", help="Code of its ESCO; without, it is the platform's.")
    ] = None,
    scope: Annotated[
        list[str] | None, typer.Option(help="read, write or admin; repeat for several. (read)")
    ] = None,
    monitoring: Annotated[
        bool, typer.Option(help="Of the platform: reads every ESCO (Grafana).")
    ] = False,
    lifetime: Annotated[int, typer.Option(help="Of its tokens, in seconds.")] = LIFETIME_SECONDS,
    as_json: Json = False,
) -> None:
    """Make a client; its secret is printed this once."""
    scopes = list(dict.fromkeys(scope or (["read"] if esco_code or monitoring else ["admin"])))
    if unknown := set(scopes) - {"read", "write", "admin"}:
        raise fail(f"there is no scope {' '.join(unknown)}; choose of read, write, admin")
    if not esco_code and scopes != (["read"] if monitoring else ["admin"]):
        raise fail("a client of the platform administers (admin), or monitors: --monitoring")
    if esco_code and monitoring:
        raise fail("--monitoring reads every ESCO; leave --esco out")
    longest = Settings().tokens.max_lifetime_seconds
    if not 60 <= lifetime <= longest:
        raise fail(f"--lifetime: 60 to {longest} seconds on this platform")

    async def create(connection: Connection) -> dict[str, Any]:
        owner = await store.find_esco(connection, esco_code) if esco_code else None
        platform = "grafanareader" if monitoring else "operator"
        made, secret = await store.create_client(
            connection,
            COMMAND_LINE,
            esco=owner["id"] if owner else None,
            name=name,
            role=("flows" if "write" in scopes else "public_backend") if owner else platform,
            scopes=scopes,
            lifetime_seconds=lifetime,
        )
        return made | {"client_secret": secret}

    made = run(create)
    show([made], ("id", "client_secret"), as_json=as_json)


@client.command("rotate-secret")
def client_rotate(client_id: str, as_json: Json = False) -> None:
    """Give a client a new secret beside the one it has; of two, the older stops working."""
    secret = run(lambda c: store.add_secret(c, COMMAND_LINE, client_id, replace_oldest=True))
    show([{"client_secret": secret}], ("client_secret",), as_json=as_json)


@client.command("disable")
def client_disable(client_id: str) -> None:
    """Disable a client; its tokens stop working within five seconds."""
    run(lambda c: store.change_client(c, COMMAND_LINE, client_id, disabled_at=datetime.now(UTC)))


@client.command("enable")
def client_enable(client_id: str) -> None:
    """Let a disabled client work again."""
    run(lambda c: store.change_client(c, COMMAND_LINE, client_id, disabled_at=None))


@token.callback()
def token_issue(
    context: typer.Context,
    esco_code: Annotated[str | None, typer.Option("--esco", help="Code of the ESCO.")] = None,
    role: Annotated[str, typer.Option(help="flows (writes) or public_backend.")] = "public_backend",
    days: Annotated[int, typer.Option(help="How long it is valid.", min=1)] = 30,
    name: Annotated[str | None, typer.Option(help="What it is for.")] = None,
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

    async def issued(connection: Connection) -> str:
        owner = await store.find_esco(connection, esco_code)
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
        await store.record(
            connection, COMMAND_LINE, "token.issue", subject=token_id, esco=owner["id"]
        )
        grant = Grant(f"token:{token_id}", role, owner["id"], owner["code"], scopes)
        return issue(key, issuer(settings), grant, seconds=days * 86_400, token_id=token_id)

    typer.echo(run(issued))


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
    show(run(listed), columns, as_json=as_json)


@token.command("revoke")
def token_revoke(jti: str) -> None:
    """Make a token stop working at every door, within five seconds."""

    async def revoked(connection: Connection) -> None:
        cursor = await connection.execute(
            "select esco, extract(epoch from expires_at)::float as expires_at from gateway.token"
            " where jti = %s",
            (jti,),
        )
        row = await cursor.fetchone()
        if row is None:
            raise fail(f"no long-lived token {jti} was issued; see `flows token list`")
        await store.revoke(connection, COMMAND_LINE, jti, row["expires_at"], row["esco"])

    run(revoked)


@keys.command("list")
def keys_list(as_json: Json = False) -> None:
    """List the published keys: since when each signs, until when its tokens are good."""

    async def listed(connection: Connection) -> list[dict[str, Any]]:
        cursor = await connection.execute(
            "select kid, created_at, signs_from, verifies_until from gateway.signing_key"
            " order by signs_from"
        )
        return await cursor.fetchall()

    columns = ("kid", "created_at", "signs_from", "verifies_until")
    show(run(listed), columns, as_json=as_json)


@keys.command("rotate")
def keys_rotate(
    after: Annotated[
        int,
        typer.Option(
            min=PUBLISH_SECONDS, help="Seconds until it signs; every gateway must know it by then."
        ),
    ] = 60,
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

    async def rotated(connection: Connection) -> None:
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
        await store.record(connection, COMMAND_LINE, "key.rotate", subject=key.kid)

    run(rotated)
    typer.echo(f"{key.kid} signs in {after} seconds")


@keys.command("retire")
def keys_retire(kid: str) -> None:
    """Refuse every token a key signed, within five seconds: for a key that leaked."""

    async def retired(connection: Connection) -> None:
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
        await store.record(connection, COMMAND_LINE, "key.retire", subject=kid)

    run(retired)


async def _lock_keys(connection: Connection) -> None:
    """One at a time issues a long-lived token, rotates or retires; gateways read on."""
    await connection.execute("lock table gateway.signing_key in share row exclusive mode")


async def _current(connection: Connection, settings: Settings) -> Any:
    found = load_keys(settings.key_folder, settings.signing_key)
    await publish(connection, found)
    keyring = Keyring(found)
    keyring.update(await load_state(connection))
    return keyring.current()
