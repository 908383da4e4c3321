"""A backend for a page that wants cookies, not tokens: it signs people in and asks the API.

The browser has a cookie that no script can read; the tokens stay here. It runs beside `make demo`,
or with the variables of `Settings` anywhere else: `uvicorn --factory server:app --port 8001`.
"""

import hmac
import json
import os
import re
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx
from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import AsyncOAuth2Client
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

PAGE = Path(__file__).parent / "page"
DEMO = Path(__file__).parents[2] / ".flows" / "demo.json"
COOKIE = "session"
SESSION_SECONDS = 8 * 3600
SIGN_IN_SECONDS = 600
MOST_SESSIONS = 10_000
ALGORITHMS = ["RS256", "ES256", "EdDSA"]
RENEW_SECONDS = 60  # before a token ends
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105
ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"  # noqa: S105
# The page may read these; each backend says what may be written as well.
READABLE = re.compile(r"(v1|rest/v1)(/[A-Za-z0-9_-]+)+")
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "form-action 'self'; object-src 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Settings:
    """The API and its client, which is of one ESCO; the provider and its client; this server."""

    flows_url: str
    flows_client_id: str
    flows_client_secret: str
    issuer: str
    client_id: str
    client_secret: str
    public_url: str = "http://127.0.0.1:8001"

    @classmethod
    def read(cls) -> "Settings":
        """Read variables such as BFF_FLOWS_URL; if there are none, those of the running demo."""
        given = {
            name: os.environ[variable]
            for name in cls.__dataclass_fields__
            if (variable := f"BFF_{name.upper()}") in os.environ
        }
        if "flows_url" not in given:
            demo = json.loads(DEMO.read_text())
            identity, client = demo["identity"], demo["escos"]["wlce"]
            given = {
                "flows_url": demo["base_url"],
                "flows_client_id": client["client_id"],
                "flows_client_secret": client["client_secret"],
                "issuer": identity["issuer"],
                "client_id": identity["server_client_id"],
                "client_secret": identity["server_client_secret"],
            } | given
        return cls(**given)


@dataclass
class Session:
    """A browser: a sign-in that was begun, then a person."""

    ends_at: float
    state: str = ""
    nonce: str = ""
    verifier: str = ""
    id_token: str = ""
    id_token_ends_at: float = 0.0
    name: str = ""
    token: str = ""
    token_ends_at: float = 0.0
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32))


class Sessions:
    """Sessions by the value of their cookie, in memory: several processes need a store."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}

    def begin(self, seconds: float, **values: Any) -> tuple[str, Session]:
        """Return a new session and its cookie; those that ended are forgotten."""
        now = time.time()
        self._sessions = {key: one for key, one in self._sessions.items() if one.ends_at > now}
        if len(self._sessions) >= MOST_SESSIONS:
            raise HTTPException(503, "Too many people sign in right now.")
        key, session = secrets.token_urlsafe(32), Session(now + seconds, **values)
        self._sessions[key] = session
        return key, session

    def find(self, request: Request) -> Session | None:
        """Return the session of a request's cookie."""
        session = self._sessions.get(request.cookies.get(COOKIE, ""))
        return session if session and session.ends_at > time.time() else None

    def end(self, request: Request) -> Session | None:
        """Return the session of a request's cookie, which is good no longer."""
        session = self.find(request)
        self._sessions.pop(request.cookies.get(COOKIE, ""), None)
        return session


class Gateway:
    """The API: tokens of people, and requests with them."""

    def __init__(self, settings: Settings) -> None:
        self._client = httpx.AsyncClient(base_url=settings.flows_url, timeout=30)
        self._credentials = (settings.flows_client_id, settings.flows_client_secret)

    async def token(self, session: Session) -> str:
        """Return the person's token, exchanged again before it ends; 401 or 403 if refused."""
        if session.token_ends_at - RENEW_SECONDS < time.time():
            # To go on without the person, ask the provider for a refresh token (offline_access).
            if session.id_token_ends_at < time.time():
                raise HTTPException(401, "Sign in again.")
            answer = await self._client.post(
                "/auth/token",
                data={
                    "grant_type": TOKEN_EXCHANGE,
                    "subject_token": session.id_token,
                    "subject_token_type": ID_TOKEN,
                },
                auth=self._credentials,
            )
            body = answer.json()
            if answer.status_code != 200:
                raise HTTPException(403, body.get("error_description", "The API refuses it."))
            session.token = body["access_token"]
            session.token_ends_at = time.time() + body["expires_in"]
        return session.token

    async def read(self, session: Session, path: str, query: str) -> httpx.Response:
        """Return the API's answer to a person's GET."""
        headers = {"Authorization": f"Bearer {await self.token(session)}"}
        return await self._client.get(f"/{path}?{query}", headers=headers)

    async def revoke(self, session: Session) -> None:
        """End the person's token."""
        if session.token:
            await self._client.post(
                "/auth/revoke", data={"token": session.token}, auth=self._credentials
            )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


class Provider:
    """The OpenID provider."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._redirect_uri = f"{settings.public_url}/callback"

    def _client(self) -> AsyncOAuth2Client:
        return AsyncOAuth2Client(
            self._settings.client_id,
            self._settings.client_secret,
            scope="openid profile",
            redirect_uri=self._redirect_uri,
            code_challenge_method="S256",
            timeout=10,
        )

    async def _described(self, client: AsyncOAuth2Client) -> dict[str, Any]:
        place = f"{self._settings.issuer.rstrip('/')}/.well-known/openid-configuration"
        answer = await client.request("GET", place, withhold_token=True)
        described: dict[str, Any] = answer.json()
        if described.get("issuer") != self._settings.issuer:
            raise HTTPException(502, "The provider says that it is another.")
        return described

    async def begin(self, session: Session) -> str:
        """Return the URL at which the person signs in."""
        async with self._client() as client:
            described = await self._described(client)
            url, _ = client.create_authorization_url(
                described["authorization_endpoint"],
                state=session.state,
                nonce=session.nonce,
                code_verifier=session.verifier,
            )
        return str(url)

    async def finish(self, session: Session, url: str) -> tuple[str, dict[str, Any]]:
        """Return the ID token for the provider's answer, which is in `url`, and its claims."""
        async with self._client() as client:
            described = await self._described(client)
            answer = await client.fetch_token(
                described["token_endpoint"],
                authorization_response=url,
                state=session.state,
                code_verifier=session.verifier,
            )
            keys = (await client.request("GET", described["jwks_uri"], withhold_token=True)).json()
        claims = jwt.decode(answer["id_token"], KeySet.import_key_set(keys), ALGORITHMS).claims
        jwt.JWTClaimsRegistry(
            leeway=30,
            iss={"essential": True, "value": self._settings.issuer},
            aud={"essential": True, "value": self._settings.client_id},
            exp={"essential": True},
            nonce={"essential": True, "value": session.nonce},
        ).validate(claims)
        return answer["id_token"], claims


def create_app(settings: Settings) -> FastAPI:
    """Return the server."""
    sessions, gateway, provider = Sessions(), Gateway(settings), Provider(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await gateway.close()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    def signed_in(request: Request) -> Session:
        session = sessions.find(request)
        if session is None or not session.id_token:
            raise HTTPException(401, "Sign in first.")
        return session

    def changing(request: Request) -> Session:
        """Refuse what another site has a browser send, as it does not know the token."""
        session = signed_in(request)
        sent = request.headers.get("x-csrf-token", "")
        foreign = request.headers.get("origin", settings.public_url) != settings.public_url
        if foreign or not hmac.compare_digest(sent.encode(), session.csrf.encode()):
            raise HTTPException(403, "The request does not come from this page.")
        return session

    def with_cookie(response: Response, key: str, seconds: int) -> Response:
        # Lax, not Strict: the provider leads back here from its own site.
        response.set_cookie(
            COOKIE, key, max_age=seconds, httponly=True, samesite="lax",
            secure=settings.public_url.startswith("https:"),
        )  # fmt: skip
        return response

    @app.middleware("http")
    async def secured(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.get("/")
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/page.{kind}")
    async def part(kind: str) -> FileResponse:
        if kind not in ("js", "css"):
            raise HTTPException(404)
        return FileResponse(PAGE / f"page.{kind}")

    @app.get("/login")
    async def login() -> Response:
        key, session = sessions.begin(
            SIGN_IN_SECONDS,
            state=secrets.token_urlsafe(32),
            nonce=secrets.token_urlsafe(32),
            verifier=secrets.token_urlsafe(48),
        )
        return with_cookie(
            RedirectResponse(await provider.begin(session), 303), key, SIGN_IN_SECONDS
        )

    @app.get("/callback")
    async def callback(request: Request) -> Response:
        begun = sessions.end(request)
        state = request.query_params.get("state", "")
        if begun is None or not begun.state or not hmac.compare_digest(state, begun.state):
            raise HTTPException(400, "This sign-in was not begun here.")
        if "code" not in request.query_params:
            return RedirectResponse("/", 303)
        try:
            id_token, claims = await provider.finish(begun, str(request.url))
        except (JoseError, OAuthError) as refusal:
            raise HTTPException(400, f"The sign-in failed: {refusal}") from None
        # A new cookie: one that was known before means nothing now.
        key, _ = sessions.begin(
            SESSION_SECONDS, id_token=id_token, id_token_ends_at=claims["exp"],
            name=str(claims.get("name", claims["sub"])),
        )  # fmt: skip
        return with_cookie(RedirectResponse("/", 303), key, SESSION_SECONDS)

    @app.get("/me")
    async def me(session: Annotated[Session, Depends(signed_in)]) -> dict[str, str]:
        return {"name": session.name, "csrf": session.csrf}

    @app.get("/api/{path:path}")
    async def read(
        request: Request, path: str, session: Annotated[Session, Depends(signed_in)]
    ) -> Response:
        if not READABLE.fullmatch(path):
            raise HTTPException(404)
        answer = await gateway.read(session, path, request.url.query)
        return Response(
            answer.content, answer.status_code, media_type=answer.headers.get("content-type")
        )

    @app.post("/logout")
    async def logout(request: Request, session: Annotated[Session, Depends(changing)]) -> Response:
        sessions.end(request)
        await gateway.revoke(session)
        response = JSONResponse({"signed_out": True})
        response.delete_cookie(COOKIE)
        return response

    return app


def app() -> FastAPI:
    """Return the server with the settings of its environment, for `uvicorn --factory`."""
    return create_app(Settings.read())
