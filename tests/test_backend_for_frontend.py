"""The backend of examples/: what it does not believe of the provider, or no longer."""

import asyncio
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from authlib.integrations.httpx_client import AsyncOAuth2Client
from fastapi import HTTPException
from joserfc.errors import JoseError

from tests.auth.issuer_server import AUDIENCE, TestIssuer, running_issuer

FOLDER = Path(__file__).parents[1] / "examples" / "backend-for-frontend"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the server."""
    monkeypatch.syspath_prepend(FOLDER)
    return import_module("server")


class AnsweringClient(AsyncOAuth2Client):
    """A client of the provider, whose token endpoint answers with `id_token`."""

    id_token = ""

    async def fetch_token(self, *_: object, **__: object) -> dict[str, str]:
        """Return the answer of the token endpoint."""
        return {"id_token": self.id_token}


def test_an_id_token_is_that_of_this_sign_in(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.Provider, "_client", lambda _: AnsweringClient())
    session = server.Session(time.time() + 60, state="s", nonce="own", verifier="v")

    def finish(issuer: TestIssuer, id_token: str) -> Any:
        discovered = {"token_endpoint": f"{issuer.url}/token"}
        monkeypatch.setattr(issuer, "discovered", discovered)
        monkeypatch.setattr(AnsweringClient, "id_token", id_token)
        settings = server.Settings("http://x.example", "a", "b", issuer.url, AUDIENCE, "c")
        return asyncio.run(server.Provider(settings).finish(session, "http://x.example/?code=c"))

    with running_issuer() as issuer, running_issuer() as other:
        _, claims = finish(issuer, issuer.token("ann", nonce="own"))
        assert claims["sub"] == "ann"
        for forged in (
            issuer.token("ann", nonce="another"),
            issuer.token("ann"),
            issuer.token("ann", nonce="own", aud="another"),
            issuer.token("ann", nonce="own", iss=other.url),
            issuer.token("ann", nonce="own", exp=1_000_000_000),
            other.token("ann", nonce="own", iss=issuer.url),
        ):
            with pytest.raises(JoseError):
                finish(issuer, forged)


def test_an_id_token_that_has_ended_is_not_exchanged(server: Any) -> None:
    settings = server.Settings("http://nowhere.example", "a", "b", "c", "d", "e")
    ended = server.Session(time.time() + 60, id_token="x", id_token_ends_at=time.time() - 1)
    with pytest.raises(HTTPException) as refusal:
        asyncio.run(server.Gateway(settings).token(ended))
    assert refusal.value.status_code == 401
