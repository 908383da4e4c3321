"""`/admin`: an ESCO's admin manages its own clients; the platform's operators all, and ESCOs."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
)

from app.auth import clients
from app.auth.deps import Administrator, Operator
from app.auth.services import AuthServices, AuthServicesDep
from app.auth.tokens import LIFETIME_SECONDS, tenant_role
from app.errors import NotFound, Unprocessable

router = APIRouter(prefix="/admin", tags=["administration"])

TokenScope = Literal["read", "write", "admin"]
LONGEST_EXPIRY = timedelta(days=36_525)  # a century; what is near year 10000 cannot be read back


def _within_reach(at: datetime) -> datetime:
    if abs(at - datetime.now(UTC)) > LONGEST_EXPIRY:
        raise ValueError("at most a century away")
    return at


def _to_come(at: datetime) -> datetime:
    if at <= datetime.now(UTC):
        raise ValueError("must be in the future")
    return at


Expiry = Annotated[AwareDatetime, AfterValidator(_within_reach)]
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
    """What somebody asks for; a member that is not known is refused, not left out silently."""

    model_config = ConfigDict(extra="forbid")


class Secret(BaseModel):
    """A secret of a client, without the secret."""

    id: uuid.UUID
    created_at: datetime


class Client(BaseModel):
    """A client: a machine that may ask for tokens."""

    id: str
    esco: uuid.UUID | None
    esco_code: str | None
    name: str
    scopes: list[TokenScope]
    lifetime_seconds: int = Field(description="How long its tokens are valid, s.")
    created_at: datetime
    last_used_at: datetime | None = Field(description="When it last got a token.")
    expires_at: datetime | None
    disabled_at: datetime | None
    secrets: list[Secret]


class ClientWithSecret(Client):
    """A new client; the secret is shown this once."""

    client_secret: str


class NewClient(RequestModel):
    """What a client is to be."""

    name: DisplayName
    scopes: TokenScopes = Field(examples=[["read"]])
    lifetime_seconds: int = Field(LIFETIME_SECONDS, ge=60, description="Of its tokens, s.")
    expires_at: Annotated[Expiry, AfterValidator(_to_come)] | None = None
    esco: str | None = Field(
        None, description="Code of its ESCO; operators say it, others may not."
    )


class ClientChange(RequestModel):
    """What to change of a client; what is left out stays."""

    name: DisplayName | None = None
    scopes: TokenScopes | None = None
    lifetime_seconds: int | None = Field(None, ge=60)
    expires_at: Expiry | None = None


class NewSecret(BaseModel):
    """A second secret, shown this once."""

    client_secret: str


class Esco(BaseModel):
    """An energy community, and since when nothing of it works."""

    id: uuid.UUID
    code: str
    name: str
    disabled_at: datetime | None


class NewEsco(RequestModel):
    """What an ESCO is to be."""

    code: str = Field(min_length=2, max_length=32)
    name: DisplayName


class EscoChange(RequestModel):
    """Whether an ESCO's clients and tokens work."""

    disabled: bool


class AuditEntry(BaseModel):
    """One thing that was done, or refused."""

    id: int
    at: datetime
    actor: str
    action: str
    esco: uuid.UUID | None
    subject: str | None = Field(description="Id of the client, token or key; code of the ESCO.")
    detail: str | None = Field(description="Scopes granted or asked for, members changed.")
    address: str | None
    outcome: str


NO_STORE = {"Cache-Control": "no-store"}


@router.get("/clients", summary="List clients")
async def list_clients(services: AuthServicesDep, actor: Administrator) -> list[Client]:
    """The ESCO's clients; for an operator, everybody's."""
    async with services.pool.connection() as connection:
        return [Client(**row) for row in await clients.list_clients(connection, actor)]


@router.post("/clients", summary="Make a client", status_code=201)
async def create_client(
    services: AuthServicesDep, actor: Administrator, body: NewClient, response: Response
) -> ClientWithSecret:
    """Make a client and its first secret, which is shown in this answer and never again."""
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
            raise Unprocessable("esco: say the code of the client's ESCO")
        client, secret = await clients.create_client(
            connection,
            actor,
            esco=esco,
            name=body.name,
            role=tenant_role(body.scopes),
            scopes=list[str](body.scopes),
            lifetime_seconds=body.lifetime_seconds,
            expires_at=body.expires_at,
        )
    response.headers.update(NO_STORE)
    return ClientWithSecret(**client, client_secret=secret)


@router.get("/clients/{client_id}", summary="Read a client")
async def get_client(services: AuthServicesDep, actor: Administrator, client_id: str) -> Client:
    """One client; another ESCO's is the same 404 as none."""
    async with services.pool.connection() as connection:
        return Client(**await clients.get_client(connection, actor, client_id))


@router.patch("/clients/{client_id}", summary="Change a client")
async def change_client(
    services: AuthServicesDep, actor: Administrator, client_id: str, body: ClientChange
) -> Client:
    """Change name, scopes, lifetime or expiry; tokens it has already keep what they were given."""
    changes: dict[str, Any] = body.model_dump(exclude_unset=True)
    if any(changes.get(name, "") is None for name in ("name", "scopes", "lifetime_seconds")):
        raise Unprocessable("name, scopes and lifetime_seconds cannot be null; leave them out")
    _check_lifetime(services, changes.get("lifetime_seconds", 0))
    async with services.pool.connection() as connection:
        client = await clients.get_client(connection, actor, client_id)
        if "scopes" in changes and client["esco"] is None:
            raise Unprocessable("scopes: a client of the platform keeps the one it was made with")
        if "scopes" in changes:
            changes["role"] = tenant_role(changes["scopes"])
        return Client(**await clients.change_client(connection, actor, client_id, **changes))


@router.delete("/clients/{client_id}", summary="Disable a client", status_code=204)
async def disable_client(services: AuthServicesDep, actor: Administrator, client_id: str) -> None:
    """Disable a client: it gets no token, and those it has stop working within five seconds."""
    async with services.pool.connection() as connection:
        now = datetime.now(UTC)
        await clients.change_client(connection, actor, client_id, disabled_at=now)


@router.post("/clients/{client_id}/secrets", summary="Make a second secret", status_code=201)
async def add_secret(
    services: AuthServicesDep, actor: Administrator, client_id: str, response: Response
) -> NewSecret:
    """Make a secret that is valid beside the first, to replace it without a gap."""
    async with services.pool.connection() as connection:
        secret = await clients.add_secret(connection, actor, client_id)
    response.headers.update(NO_STORE)
    return NewSecret(client_secret=secret)


@router.delete("/clients/{client_id}/secrets/{secret}", summary="Delete a secret", status_code=204)
async def delete_secret(
    services: AuthServicesDep, actor: Administrator, client_id: str, secret: uuid.UUID
) -> None:
    """Delete a secret; the last one stays."""
    async with services.pool.connection() as connection:
        await clients.delete_secret(connection, actor, client_id, secret)


@router.get("/escos", summary="List ESCOs")
async def list_escos(services: AuthServicesDep, actor: Operator) -> list[Esco]:
    """Every ESCO."""
    async with services.pool.connection() as connection:
        return [Esco(**row) for row in await clients.list_escos(connection)]


@router.post("/escos", summary="Make an ESCO", status_code=201)
async def create_esco(services: AuthServicesDep, actor: Operator, body: NewEsco) -> Esco:
    """Make an ESCO."""
    async with services.pool.connection() as connection:
        return Esco(**await clients.create_esco(connection, actor, body.code, body.name))


@router.patch("/escos/{code}", summary="Disable or enable an ESCO")
async def change_esco(
    services: AuthServicesDep, actor: Operator, code: str, body: EscoChange
) -> Esco:
    """Stop every client and token of an ESCO within five seconds, or let them work again."""
    async with services.pool.connection() as connection:
        return Esco(
            **await clients.set_esco_disabled(connection, actor, code, disabled=body.disabled)
        )


@router.get("/audit", summary="Read the audit")
async def audit(
    services: AuthServicesDep,
    actor: Administrator,
    before: Annotated[
        int | None, Query(ge=1, lt=2**63, description="Entries older than this id.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[AuditEntry]:
    """What was done and refused, newest first; an ESCO's admin reads its own ESCO's."""
    async with services.pool.connection() as connection:
        rows = await clients.list_audit(connection, actor, before=before, limit=limit)
    return [AuditEntry(**row) for row in rows]


def _check_lifetime(services: AuthServices, seconds: int) -> None:
    longest = services.settings.tokens.max_lifetime_seconds
    if seconds > longest:
        raise Unprocessable(f"lifetime_seconds: at most {longest} on this platform")
