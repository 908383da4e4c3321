"""/ready tells of PostgREST what a client with a fresh token would meet."""

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx
import jwt
import pytest

from app.auth.keys import SigningKey, create_key
from app.errors import Unavailable
from app.monitoring import health

SECONDS = 60


def ask(
    answer: int | Exception, key: SigningKey | None
) -> tuple[health.Component, list[httpx.Request]]:
    """Return PostgREST's component if it gives this answer, and the requests it got."""
    asked: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer)

    def current() -> SigningKey:
        if key is None:
            raise Unavailable("No key signs.")
        return key

    async def run() -> health.Component:
        transport = httpx.MockTransport(respond)
        async with httpx.AsyncClient(transport=transport, base_url="http://postgrest") as client:
            services: Any = SimpleNamespace(
                settings=SimpleNamespace(base_url="http://gateway"),
                keys=SimpleNamespace(current=current),
                postgrests=[client],
            )
            return await health._postgrest(services)

    return asyncio.run(run()), asked


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    """A key that signs."""
    return create_key(tmp_path_factory.mktemp("keys"))


@pytest.mark.parametrize(
    ("answer", "status", "detail"),
    [
        (200, "ok", None),
        (401, "down", "refuses a fresh token"),
        (503, "down", "answers 503"),
        (404, "down", "answers 404"),
        (httpx.ConnectError("refused"), "down", "does not answer"),
        (httpx.ReadTimeout("slow"), "down", "does not answer"),
    ],
)
def test_it_is_ok_only_if_a_fresh_token_is_served(
    key: SigningKey, answer: int | Exception, status: str, detail: str | None
) -> None:
    component, (request,) = ask(answer, key)
    assert (component.status, component.detail) == (status, detail)
    token = request.headers["authorization"].removeprefix("Bearer ")
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] <= SECONDS
    assert set(claims["esco"]) == {"0", "-"}  # it reads nothing of anybody


@pytest.mark.parametrize(("answer", "status"), [(401, "ok"), (503, "down")])
def test_without_a_key_it_is_asked_without_a_token(answer: int, status: str) -> None:
    component, (request,) = ask(answer, None)
    assert component.status == status
    assert "authorization" not in request.headers
