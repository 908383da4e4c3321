"""The routes of `/admin`: ESCO admins manage their clients, operators all clients and ESCOs."""

import uuid
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
)

from app.auth import clients, usage
from app.auth.deps import Administrator, Operator
from app.auth.services import AuthServices, AuthServicesDep
from app.auth.tokens import LIFETIME_SECONDS, tenant_role
from app.errors import NotFound, Unprocessable

router = APIRouter(prefix="/admin", tags=["administration"])

TokenScope = Literal["read", "write", "admin"]
LONGEST_EXPIRY = timedelta(days=36_525)  # a century; times near the year 10000 cannot be read back


def _within_reach(at: datetime) -> datetime:
    if abs(at - datetime.now(UTC)) > LONGEST_EXPIRY:
        raise ValueError("at most a century away")
    return at


def _to_come(at: datetime) -> datetime:
    if at <= datetime.now(UTC):
        raise ValueError("must be in the future")
    return at


NearTime = Annotated[AwareDatetime, AfterValidator(_within_reach)]
TokenScopes = Annotated[
    list[TokenScope],
    Field(min_length=1),
    AfterValidator(lambda scopes: list(dict.fromkeys(scopes))),
]
DisplayName = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=clients.LONGEST_NAME),
]


class RequestModel(BaseModel):
    """Base class of request bodies; unknown members are an error instead of being ignored."""

    model_config = ConfigDict(extra="forbid")


class Secret(BaseModel):
    """A secret of a client, without its value."""

    id: uuid.UUID
    created_at: datetime


class Client(BaseModel):
    """A client: a machine that may request tokens."""

    id: str
    esco: uuid.UUID | None
    esco_code: str | None
    name: str
    scopes: list[TokenScope]
    lifetime_seconds: int = Field(description="Lifetime of its tokens, in seconds.")
    created_at: datetime
    last_used_at: datetime | None = Field(description="Time of its latest token.")
    expires_at: datetime | None
    disabled_at: datetime | None
    secrets: list[Secret]


class ClientWithSecret(Client):
    """A new client with its secret, which is shown only here."""

    client_secret: str


class NewClient(RequestModel):
    """The properties of a new client."""

    name: DisplayName
    scopes: TokenScopes = Field(examples=[["read"]])
    lifetime_seconds: int = Field(
        LIFETIME_SECONDS, ge=60, description="Lifetime of its tokens, in seconds."
    )
    expires_at: Annotated[NearTime, AfterValidator(_to_come)] | None = None
    esco: str | None = Field(
        None, description="Code of its ESCO; required from operators. Others have only their own."
    )


class ClientChange(RequestModel):
    """Changes to a client; members left out keep their values."""

    name: DisplayName | None = None
    scopes: TokenScopes | None = None
    lifetime_seconds: int | None = Field(None, ge=60)
    expires_at: NearTime | None = None


class NewSecret(BaseModel):
    """A second secret, which is shown only here."""

    client_secret: str


class Esco(BaseModel):
    """An energy community; `disabled_at` is the time since which its clients are disabled."""

    id: uuid.UUID
    code: str
    name: str
    disabled_at: datetime | None


class NewEsco(RequestModel):
    """The properties of a new ESCO."""

    code: str = Field(min_length=2, max_length=32)
    name: DisplayName


class EscoChange(RequestModel):
    """The state of an ESCO: if disabled, none of its clients and tokens work."""

    disabled: bool


class AuditEntry(BaseModel):
    """An action that was carried out or refused."""

    id: int = Field(description="The microsecond of its time, counted from 1970.")
    at: datetime
    actor: str
    action: str
    esco: uuid.UUID | None
    subject: str | None = Field(
        description="Id of a client, member, app, token or key, URL of an issuer, code of an ESCO."
    )
    detail: str | None = Field(description="Scopes granted or requested, members changed.")
    address: str | None
    outcome: str


class Usage(BaseModel):
    """The requests of a client with a valid token, refused ones too."""

    day: date | None = Field(description="Day, UTC; null in the sum of all days.")
    client_id: str = Field(description="Client, token of a job, or app in which people sign in.")
    name: str | None
    esco: uuid.UUID | None = Field(description="ESCO that it acted for.")
    esco_code: str | None
    calls: int
    rows: int = Field(description="Rows that were returned, or changed by PATCH and DELETE.")
    bytes: int = Field(description="Bytes of the responses' bodies, as they were sent.")
    received: int = Field(description="Bytes of the requests' bodies, most of which are stored.")


@router.get("/clients", summary="List clients")
async def list_clients(services: AuthServicesDep, actor: Administrator) -> list[Client]:
    """List the clients of the caller's ESCO; for an operator, those of all ESCOs."""
    async with services.pool.connection() as connection:
        return [Client(**row) for row in await clients.list_clients(connection, actor)]


@router.post("/clients", summary="Create a client", status_code=201)
async def create_client(
    services: AuthServicesDep, actor: Administrator, body: NewClient
) -> ClientWithSecret:
    """Create a client and its first secret, which only this response contains.

    An ESCO's admin can give no scope that its own token lacks.
    """
    _check_lifetime(services, body.lifetime_seconds)
    async with services.pool.connection() as connection:
        esco = actor.esco
        if esco is None and body.esco:
            esco = (await clients.find_esco(connection, body.esco))["id"]
        elif body.esco:
            own = [row["id"] for row in await clients.list_escos(connection)
                   if row["code"] == body.esco]  # fmt: skip
            if own != [actor.esco]:
                raise NotFound(f"There is no ESCO {body.esco}.")
        if esco is None:
            raise Unprocessable("esco: give the code of the client's ESCO")
        client, secret = await clients.create_client(
            connection,
            actor,
            limits=services.settings.limits,
            esco=esco,
            name=body.name,
            role=tenant_role(body.scopes),
            scopes=list[str](body.scopes),
            lifetime_seconds=body.lifetime_seconds,
            expires_at=body.expires_at,
        )
    return ClientWithSecret(**client, client_secret=secret)


@router.get("/clients/{client_id}", summary="Read a client")
async def get_client(services: AuthServicesDep, actor: Administrator, client_id: str) -> Client:
    """Return a client; another ESCO's client gives the same 404 as one that does not exist."""
    async with services.pool.connection() as connection:
        return Client(**await clients.get_client(connection, actor, client_id))


@router.patch("/clients/{client_id}", summary="Change a client")
async def change_client(
    services: AuthServicesDep, actor: Administrator, client_id: str, body: ClientChange
) -> Client:
    """Change name, scopes, lifetime or expiry; tokens issued before keep what they were given."""
    changes: dict[str, Any] = body.model_dump(exclude_unset=True)
    if any(changes.get(name, "") is None for name in ("name", "scopes", "lifetime_seconds")):
        raise Unprocessable("name, scopes and lifetime_seconds cannot be null; leave them out")
    _check_lifetime(services, changes.get("lifetime_seconds", 0))
    async with services.pool.connection() as connection:
        client = await clients.get_client(connection, actor, client_id)
        if "scopes" in changes and client["esco"] is None:
            raise Unprocessable("scopes: those of a client of the platform cannot be changed")
        if "scopes" in changes:
            changes["role"] = tenant_role(changes["scopes"])
        return Client(**await clients.change_client(connection, actor, client_id, **changes))


@router.delete("/clients/{client_id}", summary="Disable a client", status_code=204)
async def disable_client(services: AuthServicesDep, actor: Administrator, client_id: str) -> None:
    """Disable a client: it gets no more tokens, and those it has stop working in five seconds."""
    async with services.pool.connection() as connection:
        now = datetime.now(UTC)
        await clients.change_client(connection, actor, client_id, disabled_at=now)


@router.post("/clients/{client_id}/secrets", summary="Create a second secret", status_code=201)
async def add_secret(services: AuthServicesDep, actor: Administrator, client_id: str) -> NewSecret:
    """Create a second secret, valid alongside the first, to replace that one without a gap."""
    async with services.pool.connection() as connection:
        secret = await clients.add_secret(connection, actor, client_id)
    return NewSecret(client_secret=secret)


@router.delete("/clients/{client_id}/secrets/{secret}", summary="Delete a secret", status_code=204)
async def delete_secret(
    services: AuthServicesDep, actor: Administrator, client_id: str, secret: uuid.UUID
) -> None:
    """Delete a secret; the last one cannot be deleted."""
    async with services.pool.connection() as connection:
        await clients.delete_secret(connection, actor, client_id, secret)


@router.get("/escos", summary="List ESCOs")
async def list_escos(services: AuthServicesDep, actor: Operator) -> list[Esco]:
    """List all ESCOs."""
    async with services.pool.connection() as connection:
        return [Esco(**row) for row in await clients.list_escos(connection)]


@router.post("/escos", summary="Create an ESCO", status_code=201)
async def create_esco(services: AuthServicesDep, actor: Operator, body: NewEsco) -> Esco:
    """Create an ESCO."""
    async with services.pool.connection() as connection:
        return Esco(**await clients.create_esco(connection, actor, body.code, body.name))


@router.patch("/escos/{code}", summary="Disable or enable an ESCO")
async def change_esco(
    services: AuthServicesDep, actor: Operator, code: str, body: EscoChange
) -> Esco:
    """Disable or enable all clients and tokens of an ESCO; it takes effect within five seconds."""
    async with services.pool.connection() as connection:
        return Esco(
            **await clients.set_esco_disabled(connection, actor, code, disabled=body.disabled)
        )


@router.get("/audit", summary="Read the audit log")
async def audit(
    services: AuthServicesDep,
    actor: Administrator,
    before: Annotated[
        int | None, Query(ge=1, lt=2**53, description="Return only entries older than this id.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[AuditEntry]:
    """List actions carried out and refused, newest first; an ESCO's admin sees only its ESCO's."""
    async with services.pool.connection() as connection:
        rows = await clients.list_audit(connection, actor, before=before, limit=limit)
    return [AuditEntry(**row) for row in rows]


@router.get("/usage", summary="Calls, rows and bytes of each client")
async def read_usage(
    services: AuthServicesDep,
    actor: Administrator,
    day_from: Annotated[
        date | None, Query(description="First day, UTC; by default 30 days before day_to.")
    ] = None,
    day_to: Annotated[
        date | None,
        Query(description="Day after the last, UTC; by default tomorrow."),
    ] = None,
    by: Annotated[
        Literal["client", "day"],
        Query(description="`day` tells each day of each client, at most 92 days."),
    ] = "client",
    client_id: Annotated[str | None, Query(max_length=255)] = None,
) -> list[Usage]:
    """List calls, rows and bytes of each client; an ESCO's admin sees those for its own ESCO.

    They are those of both doors, `/rest/v1` and `/v1`, and of `/admin`, and complete but for the
    last seconds.
    """
    first, stop = usage.choose_days(day_from, day_to, by)
    async with services.pool.connection() as connection:
        rows = await usage.list_usage(
            connection, actor, first=first, stop=stop, by_day=by == "day", client=client_id
        )
    return [Usage(**row) for row in rows]


def _check_lifetime(services: AuthServices, seconds: int) -> None:
    longest = services.settings.tokens.max_lifetime_seconds
    if seconds > longest:
        raise Unprocessable(f"lifetime_seconds: must be at most {longest} on this platform")
