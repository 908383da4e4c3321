"""The routes of `/admin` for people: members of an ESCO, and for operators issuers and apps."""

import uuid
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from app.auth import apps, issuers, members
from app.auth.admin import DisplayName, NearTime, RequestModel, TokenScope, TokenScopes
from app.auth.clients import find_esco, list_escos
from app.auth.deps import Administrator, Operator
from app.auth.services import AuthServicesDep
from app.errors import NotFound

router = APIRouter(prefix="/admin", tags=["administration"])

IssuerUrl = Annotated[str, Field(max_length=500, examples=["https://login.example.org/realms/a"])]
Code = Annotated[str, Field(min_length=2, max_length=32)]
MOST_RESIDENCES = 100
ShortText = Annotated[str, Field(min_length=1, max_length=255)]


class TrustedIssuer(BaseModel):
    """An OpenID provider that vouches for people."""

    id: uuid.UUID
    url: str
    audiences: list[str] = Field(description="One of these must be in its tokens' `aud`.")
    esco: uuid.UUID | None = Field(description="The only ESCO that it has members of.")
    esco_code: str | None
    claims: dict[str, str | int | bool] = Field(description="Claims that its tokens must have.")
    jwks_uri: str | None
    secret_name: str | None
    created_at: datetime


class NewIssuer(RequestModel):
    """An issuer to trust."""

    url: IssuerUrl
    audiences: list[ShortText] = Field(min_length=1, max_length=20)
    esco: Code | None = Field(None, description="Code of the only ESCO that it has members of.")
    claims: dict[str, str | int | bool] = Field({}, max_length=20)
    jwks_uri: IssuerUrl | None = Field(None, description="URL of its keys; default: discovered.")
    secret_name: ShortText | None = Field(
        None, description="Name in FLOWS_ISSUERS_HMAC_SECRETS of the secret of a Supabase project."
    )


class IssuerChange(RequestModel):
    """Changes to an issuer; members left out keep their values."""

    audiences: list[ShortText] | None = Field(None, min_length=1, max_length=20)
    claims: dict[str, str | int | bool] | None = Field(None, max_length=20)


class Residence(RequestModel):
    """A property that a resident lives in, and for how long: history is visible of that time."""

    property: uuid.UUID
    start_time: NearTime = Field(description="Time at which the person moves in, inclusive.")
    end_time: NearTime | None = Field(
        None, description="Time at which the person moves out, exclusive; empty if not known."
    )


Residences = Annotated[list[Residence], Field(max_length=MOST_RESIDENCES)]


class Member(BaseModel):
    """A person who may act for an ESCO, or a resident, who reads what belongs to its homes.

    Without `subject` the invitation is not accepted yet.
    """

    id: str
    esco: uuid.UUID | None = Field(description="Empty for support, which acts for members.")
    esco_code: str | None
    issuer: str
    subject: str | None
    email: str | None
    name: str
    scopes: list[TokenScope]
    resident: bool
    residences: list[Residence]
    invited_until: datetime | None
    created_at: datetime
    last_used_at: datetime | None = Field(description="Time of its latest token.")
    disabled_at: datetime | None


class AddedMember(Member):
    """A new member, and the code of its invitation, which is shown only here."""

    invitation: str | None


class NewMember(RequestModel):
    """A person: by the subject at the issuer, or invited by e-mail address."""

    issuer: IssuerUrl
    name: DisplayName
    scopes: TokenScopes = Field(["read"], examples=[["read"]])
    subject: ShortText | None = None
    email: str | None = Field(None, min_length=3, max_length=254)
    esco: Code | None = Field(
        None,
        description="Code of the ESCO. Operators who leave it out add support; others have only "
        "their own.",
    )
    residences: Residences | None = Field(
        None, description="Makes the person a resident, with the scope `read` alone."
    )


class MemberChange(RequestModel):
    """Changes to a member; members left out keep their values."""

    scopes: TokenScopes | None = None
    disabled: bool | None = None
    residences: Residences | None = Field(
        None, description="All residences of a resident, in place of those it has."
    )


class App(BaseModel):
    """A public client: an app in browsers, without a secret."""

    id: str
    name: str
    origins: list[str]
    esco: uuid.UUID | None
    esco_code: str | None
    created_at: datetime
    disabled_at: datetime | None


class NewApp(RequestModel):
    """The properties of a new app."""

    name: DisplayName
    origins: list[ShortText] = Field(min_length=1, max_length=20)
    esco: Code | None = Field(None, description="Code of the only ESCO that it gets tokens for.")


class AppChange(RequestModel):
    """The state of an app: if disabled, neither it nor the tokens it got work."""

    disabled: bool


@router.get("/issuers", summary="List trusted issuers")
async def read_issuers(services: AuthServicesDep, actor: Administrator) -> list[TrustedIssuer]:
    """List the issuers that the caller's members may come from; for an operator, all."""
    async with services.pool.connection() as connection:
        rows = await issuers.list_issuers(connection, actor)
    return [TrustedIssuer(**row) for row in rows]


@router.post("/issuers", summary="Trust an issuer", status_code=201)
async def trust_issuer(
    services: AuthServicesDep, actor: Operator, body: NewIssuer
) -> TrustedIssuer:
    """Trust an issuer: people with a token of it, who are members, get tokens here."""
    async with services.pool.connection() as connection:
        row = await issuers.add_issuer(
            connection, actor, body.url, audiences=body.audiences, esco_code=body.esco,
            claims=body.claims, jwks_uri=body.jwks_uri, secret_name=body.secret_name,
        )  # fmt: skip
    return TrustedIssuer(**row)


@router.patch("/issuers", summary="Change an issuer")
async def update_issuer(
    services: AuthServicesDep,
    actor: Operator,
    url: Annotated[str, Query(max_length=500)],
    body: IssuerChange,
) -> TrustedIssuer:
    """Replace the audiences of its tokens, or the claims that they must have; members stay."""
    async with services.pool.connection() as connection:
        row = await issuers.change_issuer(
            connection, actor, url, audiences=body.audiences, claims=body.claims
        )
    return TrustedIssuer(**row)


@router.delete("/issuers", summary="Trust an issuer no longer", status_code=204)
async def distrust_issuer(
    services: AuthServicesDep, actor: Operator, url: Annotated[str, Query(max_length=500)]
) -> None:
    """Remove an issuer and disable its members; their tokens stop working in five seconds."""
    async with services.pool.connection() as connection:
        await issuers.remove_issuer(connection, actor, url)


@router.get("/members", summary="List members")
async def read_members(
    services: AuthServicesDep,
    actor: Administrator,
    after: Annotated[
        str | None, Query(max_length=20, description="Id of the last member of the page before.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> list[Member]:
    """List the members of the caller's ESCO by name; for an operator, those of all ESCOs.

    A page has `limit` members; one with fewer is the last.
    """
    async with services.pool.connection() as connection:
        rows = await members.list_members(connection, actor, after=after, limit=limit)
    return [Member(**row) for row in rows]


@router.post("/members", summary="Add or invite a member", status_code=201)
async def create_member(
    services: AuthServicesDep, actor: Administrator, body: NewMember
) -> AddedMember:
    """Add a person by subject, or invite one by e-mail address; with `residences`, a resident.

    Hand over the `invitation`; the app sends it with the person's first token exchange. An ESCO's
    admin can give no scope that its own token lacks, and no property that the ESCO has not.
    """
    async with services.pool.connection() as connection:
        esco = actor.esco
        if esco is None and body.esco:
            esco = (await find_esco(connection, body.esco))["id"]
        elif body.esco:
            own = [row["code"] for row in await list_escos(connection) if row["id"] == esco]
            if own != [body.esco]:
                raise NotFound(f"There is no ESCO {body.esco}.")
        row, code = await members.add_member(
            connection, actor, limits=services.settings.limits, issuer_url=body.issuer,
            esco=esco, name=body.name, scopes=list[str](body.scopes), subject=body.subject,
            email=body.email, residences=_residences(body.residences),
        )  # fmt: skip
    return AddedMember(**row, invitation=code)


@router.patch("/members/{member_id}", summary="Change a member")
async def update_member(
    services: AuthServicesDep, actor: Administrator, member_id: str, body: MemberChange
) -> Member:
    """Change scopes or residences, disable or enable; a disabled member's tokens stop in 5 seconds.

    Tokens issued before keep their scopes until they end, after 15 minutes at most. Residences take
    effect at once: a resident who has moved out still reads the time until then. One that has ended
    may be shortened or left out, and made no longer.
    """
    async with services.pool.connection() as connection:
        scopes = list[str](body.scopes) if body.scopes else None
        row = await members.change_member(
            connection, actor, member_id, scopes=scopes, disabled=body.disabled,
            residences=_residences(body.residences),
        )  # fmt: skip
    return Member(**row)


def _residences(given: list[Residence] | None) -> list[members.Stay] | None:
    if given is None:
        return None
    return [members.Stay(one.property, one.start_time, one.end_time) for one in given]


@router.get("/apps", summary="List apps")
async def read_apps(services: AuthServicesDep, actor: Operator) -> list[App]:
    """List the apps that exchange tokens of people without a secret."""
    async with services.pool.connection() as connection:
        return [App(**row) for row in await apps.list_apps(connection)]


@router.post("/apps", summary="Register an app", status_code=201)
async def register_app(services: AuthServicesDep, actor: Operator, body: NewApp) -> App:
    """Register an app with the origins of its pages."""
    async with services.pool.connection() as connection:
        row = await apps.create_app_client(
            connection, actor, body.name, body.origins, body.esco,
            limits=services.settings.limits,
        )  # fmt: skip
    return App(**row)


@router.patch("/apps/{app_id}", summary="Disable or enable an app")
async def change_app(
    services: AuthServicesDep, actor: Operator, app_id: str, body: AppChange
) -> App:
    """Disable or enable an app; the tokens it got stop working within five seconds."""
    async with services.pool.connection() as connection:
        row = await apps.set_app_disabled(connection, actor, app_id, disabled=body.disabled)
    return App(**row)
