"""The OAuth server: `/auth/token`, `/auth/revoke`, `/auth/introspect` and its metadata.

Sources: RFC 6749 §4.4 and §5 (tokens), RFC 8693 (token exchange), RFC 7009 (revocation),
RFC 7662 (introspection), RFC 8414 (metadata), RFC 7517 (keys).
"""

import asyncio
import base64
import binascii
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Annotated, Any
from urllib.parse import parse_qsl, unquote_plus

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from psycopg.rows import DictRow

from app.auth import clients
from app.auth.apps import APP_PREFIX, find_app
from app.auth.clients import Actor, AuthenticatedClient
from app.auth.deps import client_address
from app.auth.exchange import TOKEN_EXCHANGE, Requester, exchange_token
from app.auth.keyring import PUBLISH_SECONDS
from app.auth.refusals import OAuthError
from app.auth.services import AuthServices, AuthServicesDep
from app.auth.throttle import Flooded, Throttled
from app.auth.tokens import AUDIENCE, issue
from app.db.principal import Principal
from app.errors import Problem, Unavailable

router = APIRouter(tags=["tokens"])

TOKEN_RESPONSE_HEADERS = {"Cache-Control": "no-store", "Pragma": "no-cache"}
FORM = "application/x-www-form-urlencoded"
LONGEST_FORM = 16_384
LONGEST_DETAIL = 200  # characters of an unauthenticated caller's text that the audit log keeps
WRONG_CREDENTIALS = "The client id or secret is wrong."
TOO_MANY_REQUESTS = "This client sends too many requests; wait before the next one."
TOO_MANY_REFUSALS = "Too many refused requests; try again later."
TOO_MANY_REVOCATIONS = (
    "The ESCO has revoked 1,000 tokens within a day, which is the most; disable the client instead."
)
TOO_MANY_ATTEMPTS = "Too many wrong secrets; try again later."


def respond_with_error(request: Request, error: Exception) -> JSONResponse:
    """Return the response for an OAuthError."""
    assert isinstance(error, OAuthError)  # noqa: S101
    headers = dict(TOKEN_RESPONSE_HEADERS)
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="flows"'
    if error.retry:
        headers["Retry-After"] = str(error.retry)
    body = {"error": error.error, "error_description": str(error)} | error.members
    return JSONResponse(body, status_code=error.status, headers=headers)


def _schema(required: list[str], **properties: str) -> dict[str, Any]:
    """Return the OpenAPI request body of an endpoint: its fields, and the client's credentials."""
    texts = properties | {
        "client_id": "Unless sent by HTTP Basic.",
        "client_secret": "Unless sent by HTTP Basic.",
    }
    fields = {name: {"type": "string", "description": text} for name, text in texts.items()}
    form = {"type": "object", "required": required, "properties": fields}
    return {"requestBody": {"required": True, "content": {FORM: {"schema": form}}}}


async def _form(request: Request) -> dict[str, str]:
    """Return the fields of the form in the request's body, none of which may be repeated.

    Parameters in the URL are refused, because URLs end up in logs.
    """
    if request.url.query:
        raise OAuthError("invalid_request", "Send parameters in the body, never in the URL.")
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        raise OAuthError("invalid_request", f"The body must be {FORM}.")
    raw = b""
    async for piece in request.stream():
        raw += piece
        # The caller is not authenticated yet, so stop collecting a body that is too long.
        if len(raw) > LONGEST_FORM:
            raise OAuthError("invalid_request", "The form is too long.")
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict")
    except (UnicodeDecodeError, ValueError):
        raise OAuthError("invalid_request", "The body is not a form.") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise OAuthError("invalid_request", "A parameter is repeated.")
    if any("\x00" in text for pair in pairs for text in pair):
        raise OAuthError("invalid_request", "The form contains a NUL character.")
    return fields


Form = Annotated[dict[str, str], Depends(_form)]


def _credentials(request: Request, form: dict[str, str]) -> tuple[str, str]:
    """Return client id and secret from HTTP Basic (form-encoded, RFC 6749 §2.3.1) or the form."""
    basic = request.headers.getlist("authorization")
    if not basic:
        return form.get("client_id", ""), form.get("client_secret", "")
    if "client_secret" in form or len(basic) > 1:
        raise OAuthError("invalid_request", "Authenticate either by HTTP Basic or in the form.")
    scheme, _, encoded = basic[0].partition(" ")
    try:
        pair = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        pair = ""
    client_id, secret = (unquote_plus(text) for text in pair.partition(":")[::2])
    if scheme.lower() != "basic" or "\x00" in client_id + secret:
        return "", ""
    if form.get("client_id", client_id) != client_id:
        raise OAuthError("invalid_request", "client_id differs from that of HTTP Basic.")
    return client_id, secret


@asynccontextmanager
async def _authenticated(
    request: Request, services: AuthServices, form: dict[str, str]
) -> AsyncIterator[AuthenticatedClient]:
    """Authenticate the client, and hold its turn until the request is done.

    Failed attempts are throttled and recorded; a client with too many requests gets a 429.
    """
    client_id, secret = _credentials(request, form)
    address = client_address(request, services.settings)
    try:
        async with services.throttle.turn(client_id, address) as attempt:
            async with services.token_pool.connection() as connection:
                known = await clients.find_credentials(connection, client_id)
            client = clients.verify_secret(known, secret)
            if client is None:
                client = await _convert(services, known, secret)
            if client is None:
                # If the client exists, the entry is visible to the admin of its ESCO.
                actor = Actor(client_id[:64] or "nobody", address, known["esco"] if known else None)
                async with services.token_pool.connection() as connection:
                    await clients.record(
                        connection, actor, "client.authenticate", outcome="wrong credentials"
                    )
            owner = str(client.grant.esco) if client and client.grant.esco else None
            await attempt.ended(succeeded=client is not None, owner=owner)
            if client is None:
                raise OAuthError("invalid_client", WRONG_CREDENTIALS, 401)
            yield client
    except Flooded as flooded:
        # A delay keeps the connections of a flood from returning all at once.
        await asyncio.sleep(services.settings.limits.refusal_seconds)
        raise OAuthError("slow_down", TOO_MANY_REQUESTS, 429, flooded.seconds) from None
    except Throttled as throttled:
        raise OAuthError("invalid_client", TOO_MANY_ATTEMPTS, 429, throttled.seconds) from None


@asynccontextmanager
async def _requester(
    request: Request, services: AuthServices, form: dict[str, str]
) -> AsyncIterator[Requester]:
    """Authenticate a client with a secret, or identify an app by its id and its origin."""
    address = client_address(request, services.settings)
    if not _names_app(request, form):
        async with _authenticated(request, services, form) as client:
            grant = client.grant
            if grant.esco is None:
                raise OAuthError("unauthorized_client", "Only clients of an ESCO may do this.")
            yield Requester(grant.client_id, address, grant.esco, grant.scopes)
        return
    async with _identified(request, services, form) as requester:
        yield requester


def _names_app(request: Request, form: dict[str, str]) -> bool:
    return (
        form.get("client_id", "").startswith(APP_PREFIX)
        and "client_secret" not in form
        and "authorization" not in request.headers
    )


@asynccontextmanager
async def _identified(
    request: Request, services: AuthServices, form: dict[str, str]
) -> AsyncIterator[Requester]:
    """Identify an app, and hold a turn until the request is done; refusals are throttled.

    Everybody knows an app's id, so its requests are counted for each address apart: nobody can use
    up what others may ask.
    """
    client_id, address = form["client_id"], client_address(request, services.settings)
    try:
        async with services.throttle.turn(f"{client_id} {address}", address) as attempt:
            try:
                esco = await _esco_of_app(request, services, client_id, address)
                yield Requester(client_id, address, esco)
            except OAuthError as refusal:
                if refusal.status != 503:
                    await attempt.ended(succeeded=False)
                raise
            await attempt.ended(succeeded=True)
    except Flooded as flooded:
        await asyncio.sleep(services.settings.limits.refusal_seconds)
        raise OAuthError("slow_down", TOO_MANY_REQUESTS, 429, flooded.seconds) from None
    except Throttled as throttled:
        raise OAuthError("slow_down", TOO_MANY_REFUSALS, 429, throttled.seconds) from None


async def _esco_of_app(
    request: Request, services: AuthServices, client_id: str, address: str
) -> uuid.UUID | None:
    """Return the only ESCO that an app gets tokens for, None if for any.

    OAuthError, which is recorded, if there is no such app or the request is from another origin.
    """
    origins = request.headers.getlist("origin")
    async with services.token_pool.connection() as connection:
        app = await find_app(connection, client_id)
        if app is None:
            refusal = OAuthError("invalid_client", "There is no such app.", 401)
        elif origins not in [[each] for each in app["origins"]]:
            refusal = OAuthError("unauthorized_client", "The app has no such origin.")
        else:
            esco: uuid.UUID | None = app["esco"]
            return esco
        await clients.record(
            connection, Actor(client_id[:64], address, app["esco"] if app else None),
            "app.identify", detail=" ".join(origins)[:LONGEST_DETAIL] or None, outcome=str(refusal),
        )  # fmt: skip
    raise refusal


async def _convert(
    services: AuthServices, known: DictRow | None, secret: str
) -> AuthenticatedClient | None:
    """Return the client if it has this secret from before digests, and give the secret one."""
    async with services.throttle.hashing:
        found = await clients.verify_old_secret(known, secret)
    if found is None:
        return None
    client, secret_id = found
    async with services.token_pool.connection() as connection:
        await clients.store_digest(connection, secret_id, secret)
    return client


@router.post(
    "/auth/token",
    summary="Get an access token",
    openapi_extra=_schema(
        ["grant_type"],
        grant_type=f"`client_credentials`, or `{TOKEN_EXCHANGE}` (RFC 8693).",
        scope="Separated by spaces; default: all.",
        subject_token="Token exchange: the token of the person's issuer.",  # noqa: S106
        subject_token_type="Token exchange: `urn:ietf:params:oauth:token-type:id_token`, "  # noqa: S106
        "`…:access_token` or `…:jwt`.",
        requested_token_type="Token exchange: `…:access_token` or `…:jwt`, if given.",  # noqa: S106
        esco="Token exchange: code of the ESCO; needed by members of several.",
        resident="Token exchange: `true` for a token as a resident, for one of the ESCO's staff.",
        invitation="Token exchange: code of an invitation that the person accepts.",
        on_behalf_of="Token exchange: id of the member that support acts for.",
        resource="The gateway's URL or one below it, if given (RFC 8707).",
        audience="The same, or `flows`.",
    ),
)
async def issue_token(request: Request, services: AuthServicesDep, form: Form) -> JSONResponse:
    """Exchange a client's id and secret (HTTP Basic, or in the form) for a bearer token.

    `scope` restricts what the token allows (`read`, `write`, `admin`); by default all of them.

    With token exchange, a person's token of a trusted issuer becomes a token of 15 minutes for an
    ESCO that the person is a member of. Apps that have no secret send their `client_id` alone, from
    a registered origin; this is all that they may do. The response then has `issued_token_type`.
    """
    if form.get("grant_type") == TOKEN_EXCHANGE:
        _require_own_target(form, services.settings.base_url)
        async with _requester(request, services, form) as requester:
            exchanged = await exchange_token(services, form, requester)
        return JSONResponse(exchanged, headers=TOKEN_RESPONSE_HEADERS)
    if form.get("grant_type") != "client_credentials":
        error = "unsupported_grant_type" if form.get("grant_type") else "invalid_request"
        raise OAuthError(error, "grant_type must be client_credentials or token-exchange.")
    _require_own_target(form, services.settings.base_url)
    async with _authenticated(request, services, form) as client:
        grant = client.grant
        actor = Actor(grant.client_id, client_address(request, services.settings), grant.esco)
        asked = tuple(dict.fromkeys(form.get("scope", "").split())) or grant.scopes
        token_id = str(uuid.uuid4())
        seconds = min(client.lifetime_seconds, services.settings.tokens.max_lifetime_seconds)
        allowed = set(asked) <= set(grant.scopes)
        async with services.token_pool.connection() as connection:
            if allowed:
                await clients.record_token(
                    connection, actor, "client", "token.issue", token_id, " ".join(asked)
                )
            else:
                await clients.record(
                    connection, actor, "token.issue",
                    detail=" ".join(asked)[:LONGEST_DETAIL], outcome="scope refused",
                )  # fmt: skip
        if not allowed:
            raise OAuthError("invalid_scope", f"The client may ask for: {' '.join(grant.scopes)}.")
        body: dict[str, Any] = {
            "access_token": issue(
                services.keys.current(),
                services.settings.base_url,
                replace(grant, scopes=asked),
                seconds=seconds,
                token_id=token_id,
            ),
            "token_type": "Bearer",
            "expires_in": seconds,
            "scope": " ".join(asked),
        }
    return JSONResponse(body, headers=TOKEN_RESPONSE_HEADERS)


def _require_own_target(form: dict[str, str], base_url: str) -> None:
    """Refuse to issue a token for another service (RFC 8707 §2)."""
    for name, own in (("resource", {base_url}), ("audience", {base_url, AUDIENCE})):
        target = form.get(name, base_url)
        if target not in own and not target.startswith(f"{base_url}/"):
            raise OAuthError("invalid_target", f"{name} is not of this service.")


def _evaluate(services: AuthServices, text: str, client: AuthenticatedClient) -> Principal | None:
    """Return the caller of a token, or None if it is invalid or not the client's business.

    A client may see its own tokens, an ESCO's admin those of the ESCO, an operator all.
    """
    try:
        found = services.verifier.verify(text)
    except Unavailable:
        raise
    except Problem:
        return None
    grant = client.grant
    if found.client_id == grant.client_id:
        return found
    administers = "admin" in grant.scopes and grant.esco in (None, found.esco)
    return found if administers else None


@router.post(
    "/auth/revoke",
    summary="Revoke a token",
    openapi_extra=_schema(["token"], token="The access token."),  # noqa: S106
)
async def revoke(request: Request, services: AuthServicesDep, form: Form) -> Response:
    """Revoke a token: it stops working within five seconds (RFC 7009).

    A client can revoke its own tokens, an ESCO's admin those of the ESCO, an operator all. The
    response is 200 also for a token that is invalid or belongs to others. An app without a secret
    revokes the tokens that it got, from a registered origin.
    """
    if _names_app(request, form):
        async with _identified(request, services, form) as requester:
            await _revoke_of_app(services, form, requester)
        return Response(status_code=200, headers=TOKEN_RESPONSE_HEADERS)
    async with _authenticated(request, services, form) as client:
        if "token" not in form:
            raise OAuthError("invalid_request", "token is missing.")
        if found := _evaluate(services, form["token"], client):
            address = client_address(request, services.settings)
            actor = Actor(client.grant.client_id, address, client.grant.esco)
            await _revoke(services, actor, found)
    return Response(status_code=200, headers=TOKEN_RESPONSE_HEADERS)


async def _revoke_of_app(
    services: AuthServices, form: dict[str, str], requester: Requester
) -> None:
    if "token" not in form:
        raise OAuthError("invalid_request", "token is missing.")
    try:
        found = services.verifier.verify(form["token"])
    except Unavailable:
        raise
    except Problem:
        return
    if found.client_id == requester.client_id:
        actor = Actor(found.people[-1], requester.address, found.esco)
        await _revoke(services, actor, found)


async def _revoke(services: AuthServices, actor: Actor, found: Principal) -> None:
    if found.esco is not None:
        try:
            await services.throttle.count_revocation(str(found.esco))
        except Throttled as throttled:
            raise OAuthError("slow_down", TOO_MANY_REVOCATIONS, 429, throttled.seconds) from None
    async with services.token_pool.connection() as connection:
        await clients.revoke_token(connection, actor, found.token_id, found.expires_at, found.esco)


@router.post(
    "/auth/introspect",
    summary="Introspect a token",
    openapi_extra=_schema(["token"], token="The access token."),  # noqa: S106
)
async def introspect(request: Request, services: AuthServicesDep, form: Form) -> JSONResponse:
    """Return whether a token is active, and what it allows (RFC 7662)."""
    async with _authenticated(request, services, form) as client:
        if "token" not in form:
            raise OAuthError("invalid_request", "token is missing.")
        found = _evaluate(services, form["token"], client)
    body: dict[str, Any] = {"active": found is not None}
    if found:
        named = ("iss", "aud", "sub", "act", "client_id", "scope", "exp", "iat", "nbf", "jti",
                 "esco", "esco_code", "role")  # fmt: skip
        body |= {"token_type": "Bearer"} | {
            name: found.claims[name] for name in named if name in found.claims
        }
    return JSONResponse(body, headers=TOKEN_RESPONSE_HEADERS)


@router.get("/.well-known/jwks.json", summary="The keys that verify tokens")
async def jwks(services: AuthServicesDep) -> JSONResponse:
    """Return the public keys that verify tokens (RFC 7517)."""
    # Caches keep it no longer than a key is published before it signs, so no copy lacks a key.
    headers = {"Cache-Control": f"public, max-age={PUBLISH_SECONDS}"}
    return JSONResponse({"keys": services.keys.public}, headers=headers)


@router.get("/.well-known/oauth-authorization-server", summary="Authorization server metadata")
async def metadata(services: AuthServicesDep) -> JSONResponse:
    """Describe the authorization server (RFC 8414)."""
    base = services.settings.base_url
    methods = ["client_secret_basic", "client_secret_post"]
    # Apps, which have no secret, exchange tokens and revoke them.
    public = [*methods, "none"]
    body = {
        "issuer": base,
        "token_endpoint": f"{base}/auth/token",
        "revocation_endpoint": f"{base}/auth/revoke",
        "introspection_endpoint": f"{base}/auth/introspect",
        "jwks_uri": f"{base}/.well-known/jwks.json",
        "grant_types_supported": ["client_credentials", TOKEN_EXCHANGE],
        # There is no authorization endpoint, but RFC 8414 requires the list and clients a value.
        "response_types_supported": ["none"],
        "scopes_supported": ["read", "write", "admin"],
        "token_endpoint_auth_methods_supported": public,
        "revocation_endpoint_auth_methods_supported": public,
        "introspection_endpoint_auth_methods_supported": methods,
        "service_documentation": f"{base}/docs",
    }
    return JSONResponse(body, headers={"Cache-Control": "public, max-age=3600"})
