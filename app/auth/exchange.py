"""Token exchange (RFC 8693): the token of a person's issuer in, a token for an ESCO out."""

import uuid
from dataclasses import dataclass
from typing import Any

import jwt
from psycopg.rows import DictRow

from app.auth.clients import Actor, record, record_token
from app.auth.identity import IssuerUnavailableError, SubjectTokenError
from app.auth.issuers import Issuer, find_issuer
from app.auth.members import accept_invitation, find_memberships, find_usable_member
from app.auth.refusals import OAuthError
from app.auth.services import AuthServices
from app.auth.tokens import Grant, issue, tenant_role
from app.db.principal import RESIDENT

TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105
ACCESS_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105
JWT_TYPE = "urn:ietf:params:oauth:token-type:jwt"
ID_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:id_token"  # noqa: S105
SUBJECT_TYPES = frozenset({ACCESS_TOKEN_TYPE, ID_TOKEN_TYPE, JWT_TYPE})
EXCHANGED_SECONDS = 900
ISSUER_RETRY_SECONDS = 10
NOT_A_MEMBER = "The person is not a member, or not of this ESCO."


@dataclass(frozen=True, slots=True)
class Requester:
    """The client that exchanges a token, and what it may get: one ESCO and scopes, or any."""

    client_id: str
    address: str
    esco: uuid.UUID | None = None
    scopes: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """The member that a token is for, its scopes, and the id of whoever acts for that member."""

    member: DictRow
    scopes: tuple[str, ...]
    acting: str | None = None


async def exchange_token(
    services: AuthServices, form: dict[str, str], requester: Requester
) -> dict[str, Any]:
    """Return the members of the response; OAuthError for a refusal, which is recorded.

    The audit log then tells who was refused, as a member is added by issuer and subject.
    """
    person = None
    try:
        _check_parameters(form)
        issuer, claims = await _verified(services, form["subject_token"])
        person = f"{issuer.url} {claims['sub']}"
        return await _issued(services, form, requester, issuer, claims)
    except OAuthError as refusal:
        async with services.token_pool.connection() as connection:
            await record(
                connection, Actor(requester.client_id, requester.address, requester.esco),
                "token.exchange", detail=person, outcome=str(refusal),
            )  # fmt: skip
        raise


def _check_parameters(form: dict[str, str]) -> None:
    if not form.get("subject_token"):
        raise OAuthError("invalid_request", "subject_token is missing.")
    if form.get("subject_token_type") not in SUBJECT_TYPES:
        raise OAuthError(
            "invalid_request",
            "subject_token_type must be that of an ID token, JWT or access token.",
        )
    if form.get("requested_token_type", ACCESS_TOKEN_TYPE) not in (ACCESS_TOKEN_TYPE, JWT_TYPE):
        raise OAuthError("invalid_request", "requested_token_type must be that of an access token.")
    if "actor_token" in form or "actor_token_type" in form:
        raise OAuthError("invalid_request", "actor_token is not supported; see on_behalf_of.")


async def _verified(services: AuthServices, token: str) -> tuple[Issuer, dict[str, Any]]:
    """Return the issuer of a token and its verified claims."""
    try:
        named = jwt.decode(token, options={"verify_signature": False}).get("iss")
    except jwt.PyJWTError:
        raise OAuthError("invalid_request", "The subject_token is not a JWT.") from None
    issuer = None
    if isinstance(named, str) and named.isprintable():
        async with services.token_pool.connection() as connection:
            issuer = await find_issuer(connection, named)
    if issuer is None:
        raise OAuthError("invalid_request", "The issuer of the subject_token is not trusted here.")
    # No database connection is held meanwhile: an issuer may be slow.
    try:
        return issuer, await services.identity.verify(issuer, token)
    except SubjectTokenError as refusal:
        raise OAuthError("invalid_request", f"The subject_token is refused. {refusal}") from None
    except IssuerUnavailableError:
        raise OAuthError(
            "temporarily_unavailable",
            "The issuer does not answer right now.",
            503,
            ISSUER_RETRY_SECONDS,
        ) from None


async def _issued(
    services: AuthServices,
    form: dict[str, str],
    requester: Requester,
    issuer: Issuer,
    claims: dict[str, Any],
) -> dict[str, Any]:
    key = services.keys.current()
    token_id = str(uuid.uuid4())
    async with services.token_pool.connection() as connection:
        accepted = None
        if code := form.get("invitation"):
            accepted = await accept_invitation(connection, issuer, claims, code)
            if accepted is None:
                raise OAuthError(
                    "invalid_request",
                    "The invitation is not valid (any more), or is for another, verified e-mail "
                    "address.",
                )
        memberships = await find_memberships(connection, issuer, claims["sub"])
        if form.get("on_behalf_of"):
            target = await find_usable_member(connection, form["on_behalf_of"])
            chosen = choose_support(memberships, target, form, requester)
        else:
            chosen = choose_member(memberships, form, requester, accepted)
        member = chosen.member
        actor = Actor(chosen.acting or member["id"], requester.address, member["esco"])
        told = f"{' '.join(chosen.scopes)}; {requester.client_id}"
        if chosen.acting:
            told += f"; for {member['id']}"
        await record_token(connection, actor, "member", "token.exchange", token_id, told)
    role = RESIDENT if member["resident"] else tenant_role(chosen.scopes)
    grant = Grant(
        requester.client_id, role, member["esco"], member["esco_code"], chosen.scopes, member["id"],
        chosen.acting,
    )  # fmt: skip
    seconds = min(EXCHANGED_SECONDS, services.settings.tokens.max_lifetime_seconds)
    text = issue(key, services.settings.base_url, grant, seconds=seconds, token_id=token_id)
    return {
        "access_token": text,
        "issued_token_type": ACCESS_TOKEN_TYPE,
        "token_type": "Bearer",
        "expires_in": seconds,
        "scope": " ".join(chosen.scopes),
    }


def choose_member(
    memberships: list[DictRow],
    form: dict[str, str],
    requester: Requester,
    accepted: str | None = None,
) -> Chosen:
    """Return the membership that a token is for: of the ESCO that is named, or the only one.

    Who is a resident of an ESCO and one of its staff is the latter, unless `resident` is `true`.
    """
    wanted = form.get("resident", "false")
    if wanted not in ("true", "false"):
        raise OAuthError("invalid_request", "resident must be true or false.")
    own = [
        row
        for row in memberships
        if row["esco"] is not None
        and requester.esco in (None, row["esco"])
        and form.get("esco") in (None, row["esco_code"])
        and (row["resident"] or wanted == "false")
    ]
    if "esco" not in form and accepted:
        own = [row for row in own if row["id"] == accepted]
    if not own:
        raise OAuthError("invalid_target" if "esco" in form else "invalid_request", NOT_A_MEMBER)
    # The ESCO's staff come first in each ESCO.
    codes = list(dict.fromkeys(row["esco_code"] for row in own))
    if len(codes) > 1:
        raise OAuthError(
            "invalid_request",
            f"Name one of the person's ESCOs as esco: {' '.join(codes)}.",
            escos=codes,
        )
    return Chosen(own[0], _narrowed(form, own[0]["scopes"], requester.scopes))


def choose_support(
    memberships: list[DictRow], target: DictRow | None, form: dict[str, str], requester: Requester
) -> Chosen:
    """Return the member that support acts for, with the scopes that both have."""
    support = next((row for row in memberships if row["esco"] is None), None)
    if (
        support is None
        or target is None
        or requester.esco not in (None, target["esco"])
        or form.get("esco") not in (None, target["esco_code"])
    ):
        raise OAuthError("invalid_target", "The person may not act for this member.")
    common = [scope for scope in target["scopes"] if scope in support["scopes"]]
    return Chosen(target, _narrowed(form, common, requester.scopes), support["id"])


def _narrowed(
    form: dict[str, str], held: list[str], limit: tuple[str, ...] | None
) -> tuple[str, ...]:
    """Return the scopes that are asked for, by default all that may be given."""
    allowed = tuple(scope for scope in held if limit is None or scope in limit)
    asked = tuple(dict.fromkeys(form.get("scope", "").split())) or allowed
    if not asked or not set(asked) <= set(allowed):
        raise OAuthError("invalid_scope", f"The person may ask for: {' '.join(allowed)}.")
    return asked
