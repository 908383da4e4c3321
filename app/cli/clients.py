"""`flows client …`: management of clients, the machines that may request tokens."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from app.auth import clients
from app.auth.clients import COMMAND_LINE
from app.auth.tokens import LIFETIME_SECONDS, tenant_role
from app.cli.admin import run_as_admin
from app.cli.output import Json, fail, show
from app.db.session import Connection
from app.settings import LimitsSettings, Settings

client = typer.Typer(help="Clients: machines that may request tokens.", no_args_is_help=True)

CLIENT_COLUMNS = (
    "id", "esco_code", "name", "scopes", "last_used_at", "expires_at", "disabled_at"
)  # fmt: skip

ClientId = Annotated[str, typer.Argument(help="Id of the client: flc_…")]
ScopeOption = Annotated[
    list[str] | None, typer.Option(help="read, write or admin; repeat for several.")
]
LifetimeOption = Annotated[int | None, typer.Option(help="Lifetime of its tokens, in seconds.")]
DaysOption = Annotated[
    int | None, typer.Option(min=1, max=36_500, help="Days from now until it stops working.")
]


@client.command("list")
def client_list(as_json: Json = False) -> None:
    """List clients."""
    show(
        run_as_admin(lambda c: clients.list_clients(c, COMMAND_LINE)),
        CLIENT_COLUMNS,
        as_json=as_json,
    )


@client.command("create")
def client_create(
    name: Annotated[str, typer.Argument(help="Name of the client.")],
    esco_code: Annotated[
        str | None, typer.Option("--esco", help="Code of its ESCO; without it, a platform client.")
    ] = None,
    scope: ScopeOption = None,
    monitoring: Annotated[
        bool, typer.Option("--monitoring", help="Platform client that reads all ESCOs (Grafana).")
    ] = False,
    lifetime: LifetimeOption = LIFETIME_SECONDS,
    days: DaysOption = None,
    as_json: Json = False,
) -> None:
    """Create a client; its secret is printed only once.

    A client of an ESCO may read, unless `--scope` allows more. A client of the platform
    administers, or monitors with `--monitoring`.
    """
    scopes = _scopes(scope or (["read"] if esco_code or monitoring else ["admin"]))
    if not esco_code and scopes != (["read"] if monitoring else ["admin"]):
        raise fail("a platform client has the scope admin, or monitors with --monitoring")
    if esco_code and monitoring:
        raise fail("--monitoring reads all ESCOs; leave out --esco")

    async def create(connection: Connection) -> dict[str, Any]:
        owner = await clients.find_esco(connection, esco_code) if esco_code else None
        made, secret = await clients.create_client(
            connection,
            COMMAND_LINE,
            limits=LimitsSettings(),
            esco=owner["id"] if owner else None,
            name=name,
            role=tenant_role(scopes) if owner else "grafanareader" if monitoring else "operator",
            scopes=scopes,
            lifetime_seconds=_lifetime(lifetime or LIFETIME_SECONDS),
            expires_at=_expiry(days),
        )
        return made | {"client_secret": secret}

    made = run_as_admin(create)
    show([made], ("id", "client_secret"), as_json=as_json)


@client.command("change")
def client_change(
    client_id: ClientId,
    name: Annotated[str | None, typer.Option(help="Name of the client.")] = None,
    scope: ScopeOption = None,
    lifetime: LifetimeOption = None,
    days: DaysOption = None,
    as_json: Json = False,
) -> None:
    """Change the given properties of a client; tokens issued before stay as they are."""
    changes: dict[str, Any] = {}
    if name is not None:
        changes["name"] = name
    if lifetime is not None:
        changes["lifetime_seconds"] = _lifetime(lifetime)
    if days is not None:
        changes["expires_at"] = _expiry(days)
    if scope:
        scopes = _scopes(scope)
        changes |= {"scopes": scopes, "role": tenant_role(scopes)}
    if not changes:
        raise fail("give at least one change; see `flows client change --help`")

    async def change(connection: Connection) -> dict[str, Any]:
        known = await clients.get_client(connection, COMMAND_LINE, client_id)
        if scope and known["esco"] is None:
            raise fail("--scope: the scope of a platform client cannot be changed")
        return await clients.change_client(connection, COMMAND_LINE, client_id, **changes)

    show([run_as_admin(change)], CLIENT_COLUMNS, as_json=as_json)


def _scopes(asked: list[str]) -> list[str]:
    if unknown := set(asked) - {"read", "write", "admin"}:
        raise fail(f"there is no scope {' '.join(unknown)}; choose from read, write, admin")
    return list(dict.fromkeys(asked))


def _lifetime(seconds: int) -> int:
    longest = Settings().tokens.max_lifetime_seconds
    if not 60 <= seconds <= longest:
        raise fail(f"--lifetime: 60 to {longest} seconds on this platform")
    return seconds


def _expiry(days: int | None) -> datetime | None:
    return datetime.now(UTC) + timedelta(days=days) if days else None


@client.command("rotate-secret")
def client_rotate(client_id: ClientId, as_json: Json = False) -> None:
    """Create a second secret, valid alongside the first; if there are two, replace the older."""
    secret = run_as_admin(
        lambda c: clients.add_secret(c, COMMAND_LINE, client_id, replace_oldest=True)
    )
    show([{"client_secret": secret}], ("client_secret",), as_json=as_json)


@client.command("delete-secret")
def client_delete_secret(
    client_id: ClientId,
    secret: Annotated[
        uuid.UUID, typer.Argument(help="Id of the secret, from `flows client list --json`.")
    ],
    as_json: Json = False,
) -> None:
    """Delete one of two secrets; it stops working at once."""

    async def deleted(connection: Connection) -> dict[str, Any]:
        await clients.delete_secret(connection, COMMAND_LINE, client_id, secret)
        return await clients.get_client(connection, COMMAND_LINE, client_id)

    show([run_as_admin(deleted)], CLIENT_COLUMNS, as_json=as_json)


@client.command("disable")
def client_disable(client_id: ClientId, as_json: Json = False) -> None:
    """Disable a client; its tokens stop working within five seconds."""
    _set_disabled(client_id, datetime.now(UTC), as_json=as_json)


@client.command("enable")
def client_enable(client_id: ClientId, as_json: Json = False) -> None:
    """Enable a disabled client."""
    _set_disabled(client_id, None, as_json=as_json)


def _set_disabled(client_id: str, at: datetime | None, *, as_json: bool) -> None:
    done = run_as_admin(lambda c: clients.change_client(c, COMMAND_LINE, client_id, disabled_at=at))
    show([done], CLIENT_COLUMNS, as_json=as_json)
