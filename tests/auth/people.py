"""People who sign in, for tests: a stack that trusts an issuer, and an app in which they do."""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg

from app.auth.exchange import ID_TOKEN_TYPE, TOKEN_EXCHANGE
from tests.auth.issuer_server import AUDIENCE, TestIssuer, running_issuer
from tests.auth.test_clients import bearer
from tests.conftest import Stack, flows, running_stack

ORIGIN = "https://app.example.org"
PROXY_HEADER = "X-Forwarded-For"


@dataclass(frozen=True)
class People:
    """A stack that trusts an issuer, and an app with which people sign in."""

    stack: Stack
    issuer: TestIssuer
    app: str
    operator: httpx.Client

    def command(self, *words: str) -> dict[str, Any]:
        """Run a `flows` command that prints one row."""
        row: dict[str, Any] = json.loads(flows(self.stack, *words, "--json").stdout)[0]
        return row

    def trust(self, issuer: TestIssuer, **members: Any) -> None:
        body = {"url": issuer.url, "audiences": [AUDIENCE]} | members
        assert self.operator.post("/admin/issuers", json=body).status_code == 201

    def member(
        self,
        *scopes: str,
        esco: str | None = "wlce",
        url: str = "",
        subject: str | None = None,
        email: str | None = None,
        residences: list[dict[str, Any]] | None = None,
    ) -> dict[str, Any]:
        """Add a member that may read, or has these scopes, with a subject of its own."""
        body = {
            "issuer": url or self.issuer.url,
            "name": "Ann",
            "scopes": scopes or ["read"],
            "subject": subject or (None if email else uuid.uuid4().hex),
            "email": email,
            "esco": esco,
            "residences": residences,
        }
        made = self.operator.post("/admin/members", json=body)
        assert made.status_code == 201, made.text
        row: dict[str, Any] = made.json()
        return row

    def change(self, member: str, **changes: Any) -> None:
        path = f"/admin/members/{member}"
        assert self.operator.patch(path, json=changes).status_code == 200

    @property
    def own_client(self) -> dict[str, str]:
        """The form of a client of ESCO wlce that has a secret."""
        client = self.stack.contract["escos"]["wlce"]
        return {name: client[name] for name in ("client_id", "client_secret")}

    def exchange(self, token: str, *, origin: str | None = ORIGIN, **form: str) -> httpx.Response:
        """Exchange a token as the app, or a client in the form, each time from another address."""
        fields = {
            "grant_type": TOKEN_EXCHANGE,
            "client_id": self.app,
            "subject_token": token,
            "subject_token_type": ID_TOKEN_TYPE,
        }
        return self.post("/auth/token", fields | form, origin)

    def post(self, path: str, form: dict[str, str], origin: str | None = ORIGIN) -> httpx.Response:
        number = uuid.uuid4().int
        address = ".".join(str(number >> shift & 127) for shift in (0, 8, 16, 24))
        headers = {PROXY_HEADER: address} | ({"Origin": origin} if origin else {})
        url = self.stack.contract["base_url"] + path
        return httpx.post(url, data=form, headers=headers, timeout=60)

    def doors(self, token: str) -> set[int]:
        """Return the statuses of the gateway and of PostgREST itself."""
        headers = {"Authorization": f"Bearer {token}"}
        return {
            httpx.get(f"{self.stack.contract[door]}/escos", headers=headers).status_code
            for door in ("rest_url", "postgrest_url")
        }

    def audit(self) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.stack.contract["database_url"]) as admin:
            return admin.execute(
                "select actor, action, outcome, detail from gateway.audit order by id desc limit 20"
            ).fetchall()


@contextmanager
def running_people(**settings: str) -> Iterator[People]:
    """Run a stack of its own, as it trusts the loopback address; the issuer is at 127.0.0.1."""
    with (
        running_issuer() as issuer,
        running_stack(
            FLOWS_ISSUERS_PRIVATE_NETWORKS="127.0.0.1/32",
            FLOWS_ISSUERS_SECONDS="20",
            FLOWS_TRUSTED_PROXIES="127.0.0.1",
            FLOWS_CORS_ORIGINS=ORIGIN,
            **settings,
        ) as stack,
    ):
        app = json.loads(
            flows(stack, "app", "create", "Charts", "--origin", ORIGIN, "--json").stdout
        )[0]
        operator = json.loads(flows(stack, "client", "create", "operator", "--json").stdout)[0]
        with bearer(stack, operator) as http:
            made = People(stack, issuer, app["id"], http)
            made.trust(issuer)
            yield made


def refused(answer: httpx.Response, error: str, words: str = "") -> None:
    """Assert that a request is refused with this error, whose description has these words."""
    assert answer.json()["error"] == error, answer.text
    assert answer.status_code == {"invalid_client": 401, "temporarily_unavailable": 503}.get(
        error, 400
    )
    assert words in answer.json()["error_description"], answer.text
    assert answer.headers["cache-control"] == "no-store"
