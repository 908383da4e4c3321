"""The state of a request: its token is verified once, however many layers and routes need it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psycopg
import pytest
import uvicorn

from app.auth.tokens import TokenVerifier
from app.db.principal import Principal
from app.embedded.ports import free_port
from app.http.protocol import guarded_protocol
from app.main import create_app
from app.settings import DatabaseSettings, PostgrestSettings, Settings
from tests.conftest import Stack, wait_until


@contextmanager
def second_gateway(stack: Stack, postgrest: str | None = None) -> Iterator[str]:
    """Run a gateway in this process, with the stack's database and PostgREST; yield its URL.

    `postgrest` is the URL of another PostgREST.
    """
    password = json.loads((stack.home / "passwords.json").read_text())["flows_gateway"]
    admin_url = psycopg.conninfo.conninfo_to_dict(stack.contract["database_url"])
    login = admin_url | {"user": "flows_gateway", "password": password}
    settings = Settings(
        home=stack.home,
        port=free_port(),
        public_url=stack.contract["base_url"],
        access_log=False,
        database=DatabaseSettings(url=psycopg.conninfo.make_conninfo(**login)),
        postgrest=PostgrestSettings(url=postgrest or stack.contract["postgrest_url"]),
    )
    config = uvicorn.Config(
        create_app(settings), port=settings.port, log_config=None, ws="none",
        http=guarded_protocol(settings.http),
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{settings.port}"
    finally:
        server.should_exit = True
        thread.join(30)


PERIOD = {"period_from": "2026-01-01T00:00Z", "period_to": "2026-01-02T00:00Z"}


def test_a_token_is_verified_once_a_request(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    verified: list[str] = []
    verify = TokenVerifier.verify

    def counted(self: TokenVerifier, token: str) -> Principal:
        verified.append(token)
        return verify(self, token)

    monkeypatch.setattr(TokenVerifier, "verify", counted)
    token = stack.contract["escos"]["wlce"]["read_token"]
    with second_gateway(stack) as url, httpx.Client(base_url=url, timeout=30) as client:
        client.headers["Authorization"] = f"Bearer {token}"
        wait_until(lambda: client.get("/v1/latest").status_code == 200)
        for path, status in {
            "/v1/energy": 200,
            "/v1/sites/none/balance": 404,
            "/v1/nothing": 404,
            "/rest/v1/escos": 200,
            "/openapi.json": 200,
            "/admin/clients": 403,
            "/live": 200,
        }.items():
            verified.clear()
            params = PERIOD if path.startswith("/v1/") else None
            assert client.get(path, params=params).status_code == status, path
            assert verified == [token] * (path != "/live"), path
