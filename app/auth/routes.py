"""`/auth/token` (client credentials, RFC 6749 §4.4) and the keys that verify its tokens."""

import base64
import binascii
from dataclasses import replace
from typing import Annotated, Any
from urllib.parse import unquote_plus

from fastapi import APIRouter, Form, Request
from fastapi.responses import JSONResponse

from app.auth.clients import authenticate
from app.auth.tokens import LIFETIME_SECONDS, issue
from app.deps import ServicesDep

router = APIRouter(tags=["tokens"])

NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}


def _refusal(error: str, description: str, status: int = 400) -> JSONResponse:
    """An error as RFC 6749 §5.2 has it."""
    headers = NO_STORE | ({"WWW-Authenticate": 'Basic realm="flows"'} if status == 401 else {})
    body = {"error": error, "error_description": description}
    return JSONResponse(body, status_code=status, headers=headers)


@router.post("/auth/token", summary="Get an access token")
async def token(
    request: Request,
    services: ServicesDep,
    grant_type: Annotated[str, Form()] = "",
    client_id: Annotated[str, Form()] = "",
    client_secret: Annotated[str, Form()] = "",
    scope: Annotated[str, Form()] = "",
) -> JSONResponse:
    """Exchange a client's id and secret (HTTP Basic, or in the form) for a bearer token.

    `scope` narrows what the client may do (`read`, `write`); left out, it is everything.
    """
    if request.url.query:
        return _refusal("invalid_request", "Send credentials in the body or by HTTP Basic only.")
    if grant_type != "client_credentials":
        return _refusal("unsupported_grant_type", "grant_type must be client_credentials.")
    if basic := request.headers.get("authorization"):
        if client_secret:
            return _refusal(
                "invalid_request", "Authenticate by HTTP Basic or in the form, not both."
            )
        client_id, client_secret = _basic(basic)
    grant = await authenticate(services.pool, client_id, client_secret)
    if grant is None:
        return _refusal("invalid_client", "The client id or secret is wrong.", 401)
    asked = tuple(dict.fromkeys(scope.split())) or grant.scopes
    if not set(asked) <= set(grant.scopes):
        return _refusal("invalid_scope", f"The client may ask for: {' '.join(grant.scopes)}.")
    body: dict[str, Any] = {
        "access_token": issue(
            services.signing_key, services.settings.base_url, replace(grant, scopes=asked)
        ),
        "token_type": "Bearer",
        "expires_in": LIFETIME_SECONDS,
        "scope": " ".join(asked),
    }
    return JSONResponse(body, headers=NO_STORE)


def _basic(header: str) -> tuple[str, str]:
    """Id and secret of an `Authorization: Basic` header (each form-encoded: RFC 6749 §2.3.1)."""
    scheme, _, encoded = header.partition(" ")
    try:
        pair = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    if scheme.lower() != "basic":
        return "", ""
    client_id, _, secret = pair.partition(":")
    return unquote_plus(client_id), unquote_plus(secret)


@router.get("/.well-known/jwks.json", summary="The keys that verify tokens")
async def jwks(services: ServicesDep) -> JSONResponse:
    """Publish the public keys (RFC 7517)."""
    headers = {"Cache-Control": "public, max-age=300"}
    return JSONResponse({"keys": [services.signing_key.public_jwk]}, headers=headers)
