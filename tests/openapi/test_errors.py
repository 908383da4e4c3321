"""Errors match the document: each class is described in it, and each is provoked here."""

import concurrent.futures
import http.client
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest

from app.auth.tokens import Grant
from app.errors import (
    MethodNotAllowed,
    Problem,
    RestError,
    UnsupportedTransferCoding,
    UnsupportedVersion,
    problem_classes,
    rest_error_classes,
)
from tests.conftest import Stack, another_gateway, wait_until

Document = dict[str, Any]
PROBLEM_JSON = "application/problem+json"
SETTINGS = {
    "FLOWS_LIMITS_CONCURRENT": "2", "FLOWS_LIMITS_TURN_SECONDS": "0.2",
    "FLOWS_LIMITS_REFUSAL_SECONDS": "0", "FLOWS_HTTP_BODY_SECONDS": "0.5",
    "FLOWS_POSTGREST_ANSWER_SECONDS": "3", "FLOWS_POSTGREST_CONNECTIONS": "2",
    "FLOWS_POSTGREST_CONNECT_SECONDS": "0.3", "FLOWS_DATABASE_POOL_MAX": "1",
    "FLOWS_DATABASE_POOL_TIMEOUT": "0.5", "FLOWS_TOKENS_MAX_LIFETIME_SECONDS": "3600",
}  # fmt: skip
PERIOD = "period_from=2026-01-01T00:00Z&period_to=2026-01-02T00:00Z"
ENERGY = f"/v1/energy?{PERIOD}"
SITES = "/rest/v1/sites_new"


@pytest.fixture(scope="module")
def strict(stack: Stack) -> Iterator[Stack]:
    """A gateway with short time limits."""
    with another_gateway(stack, **SETTINGS) as strict:
        yield strict


@pytest.fixture(scope="module")
def token(strict: Stack) -> str:
    """A token with all scopes."""
    wlce = strict.contract["escos"]["wlce"]
    grant = Grant("flc_errors", "flows", wlce["id"], "wlce", ("read", "write", "admin"))
    return strict.issue(grant)


@pytest.fixture(scope="module")
def client(strict: Stack, token: str) -> Iterator[httpx.Client]:
    """An HTTP client of the strict stack with the token."""
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=strict.contract["base_url"], headers=headers, timeout=30) as found:
        wait_until(lambda: found.get("/rest/v1/escos").status_code == 200)
        yield found


@pytest.fixture(scope="module")
def described(client: httpx.Client) -> Document:
    """The document for a token with all scopes."""
    found: Document = client.get("/openapi.json").json()
    return found


def response(document: Document, method: str, path: str, status: int) -> dict[str, Any]:
    """Return the document's description of an operation's response."""
    said = document["paths"][path][method.lower()]["responses"][str(status)]
    name = said.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = document["components"]["responses"][name] if name else said
    return found


def bodies(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the examples of a media type."""
    if "example" in content:
        return [content["example"]]
    return [example["value"] for example in content["examples"].values()]


def codes(document: Document) -> dict[str, set[tuple[str, str, str]]]:
    """Return path → (media type, status, code) of all errors that its operations describe."""
    return {
        path: {
            (media_type, status, body["code"])
            for method, operation in item.items()
            for status in operation["responses"]
            if status >= "400"
            for media_type, content in response(document, method, path, int(status))
            .get("content", {})
            .items()
            if "example" in content or "examples" in content
            for body in bodies(content)
            if "code" in body
        }
        for path, item in document["paths"].items()
    }


def test_every_class_is_in_the_document(described: Document) -> None:
    shown = {(kind, status, code) for found in codes(described).values()
             for kind, status, code in found}  # fmt: skip
    said = described["components"]["schemas"]["Problem"]["properties"]["code"]["description"]
    for problem in problem_classes():
        assert f"- `{problem.code}`: {problem.title}." in said
        # No described operation is refused for its method, and HTTP clients send no such heads.
        expected = problem not in (MethodNotAllowed, UnsupportedTransferCoding, UnsupportedVersion)
        assert ((PROBLEM_JSON, str(problem.status), problem.code) in shown) == expected
    for error in rest_error_classes():
        assert ("application/json", str(error.status), error.code) in shown
    # Conversely, every problem+json error in the document has a class.
    assert {(status, code) for kind, status, code in shown if kind == PROBLEM_JSON} <= {
        (str(problem.status), problem.code) for problem in problem_classes()
    }


def test_every_class_is_one_of_a_kind() -> None:
    codes = [problem.code for problem in problem_classes()]
    assert len(codes) == len(set(codes))
    assert all(issubclass(problem, Problem) for problem in problem_classes())
    assert all(issubclass(error, RestError) for error in rest_error_classes())


def check(document: Document, operation: str, answer: httpx.Response, code: str) -> None:
    """Assert that a response matches the document for `operation`, such as `GET /v1/energy`."""
    method, _, path = operation.partition(" ")
    content = response(document, method, path, answer.status_code)["content"]
    media_type = answer.headers["content-type"].partition(";")[0]
    assert media_type in content, (operation, answer.status_code, answer.text)
    sent = answer.json()
    assert sent["code"] == code, answer.text
    if media_type == PROBLEM_JSON:
        shown = {body["code"]: body for body in bodies(content[media_type])}
        assert shown[code].items() <= sent.items()
        assert sent["status"] == answer.status_code
        assert sent["request_id"] == answer.headers["x-request-id"]
        schema = document["components"]["schemas"]["Problem"]
        assert sent.keys() <= schema["properties"].keys() | {"message", "details", "hint"}
    else:
        assert sent.keys() == {"code", "message", "details", "hint"}


TWICE = b"11111111-1111-4111-8111-111111111111"
JSON_BODY = {"Content-Type": "application/json"}
SITE = b'{"id":"%b","esco":"ESCO","name":"x"}' % TWICE
PAIR = b"[%b,%b]" % (SITE, SITE)
# Operation in the document, target, headers, body, and code of the expected error.
CASES: list[tuple[str, str, dict[str, str], bytes | None, str]] = [
    ("GET /v1/energy", "/v1/energy", {}, None, "invalid_parameter"),
    ("GET /v1/energy", ENERGY, {"Authorization": "Bearer x"}, None, "unauthorized"),
    ("GET /v1/energy", ENERGY, {"Accept": "image/png"}, None, "not_acceptable"),
    ("GET /v1/energy", ENERGY + "&x=" + "x" * 17_000, {}, None, "url_too_long"),
    ("GET /v1/energy", ENERGY, {"X-Long": "x" * 33_000}, None, "headers_too_large"),
    ("GET /v1/sites/{code_or_id}/energy", f"/v1/sites/none/energy?{PERIOD}", {}, None, "not_found"),
    ("GET /v1/energy", ENERGY, {"as": "operator"}, None, "forbidden"),
    ("GET /v1/energy", ENERGY, {"twice": "authorization"}, None, "bad_request"),
    ("GET /rest/v1/sites_new", SITES, {"twice": "authorization"}, None, "bad_request"),
    ("GET /rest/v1/sites_new", SITES, {"Authorization": "Bearer x"}, None, "unauthorized"),
    ("GET /rest/v1/sites_new", SITES, {"as": "operator"}, None, "forbidden"),
    ("GET /rest/v1/sites_new", SITES + "?x=" + "x" * 17_000, {}, None, "url_too_long"),
    ("GET /rest/v1/sites_new", SITES, {"X-Long": "x" * 33_000}, None, "headers_too_large"),
    ("GET /rest/v1/sites_new", SITES, {"Prefer": "count=planned"}, None, "FLOWS400"),
    ("GET /rest/v1/sites_new", SITES, {"Prefer": "handling=strict,x=y"}, None, "PGRST122"),
    ("GET /rest/v1/sites_new", SITES, {"Accept-Profile": "x"}, None, "PGRST106"),
    ("GET /rest/v1/sites_new", SITES, {"Accept": "application/vnd.pgrst.plan"}, None, "PGRST107"),
    ("GET /rest/v1/sites_new", SITES + "?name=x.y", {}, None, "PGRST100"),
    ("GET /rest/v1/sites_new", SITES + "?name=match.(a|b)*c", {}, None, "FLOWS422"),
    ("GET /rest/v1/register_interval_hh", "/rest/v1/register_interval_hh", {}, None, "FLOWSROWS"),
    ("POST /rest/v1/sites_new", SITES, JSON_BODY, b'{"name":"x","capacity_kw":1e9}', "PT422"),
    ("GET /rest/v1/sites_new", SITES + "?nothing=eq.1", {}, None, "42703"),
    ("GET /rest/v1/sites_new", SITES + "?capacity_kw=like.1", {}, None, "42883"),
    ("GET /rest/v1/sites_new", SITES + "?name=eq.none",
     {"Accept": "application/vnd.pgrst.object+json"}, None, "PGRST116"),
    ("GET /rest/v1/sites_new", SITES + "?offset=1000000", {"Prefer": "count=exact"}, None,
     "PGRST103"),
    ("POST /rest/v1/sites_new", SITES, JSON_BODY, b"{", "PGRST102"),
    ("POST /rest/v1/sites_new", SITES, {"Content-Type": "image/png"}, b"x", "PGRST102"),
    ("POST /rest/v1/sites_new", SITES, JSON_BODY | {"Content-Encoding": "gzip"}, b"x",
     "unsupported_encoding"),
    ("POST /rest/v1/sites_new", SITES, JSON_BODY | {"Content-Length": "99999999999"}, b"x",
     "body_too_large"),
    ("POST /rest/v1/sites_new", SITES, JSON_BODY | {"Content-Length": "9"}, b"{",
     "request_timeout"),
    ("POST /rest/v1/sites_new", SITES, JSON_BODY | {"as": "reader"}, b'{"name":"x"}', "42501"),
    ("POST /rest/v1/sites_new", SITES, JSON_BODY, PAIR, "23505"),
    ("POST /rest/v1/rpc/derive_interval_hh", "/rest/v1/rpc/derive_interval_hh", JSON_BODY,
     b'{"register_id":"%b","period_from":"2026-01-02","period_to":"2026-01-01"}', "PT422"),
    ("POST /rest/v1/rpc/derive_interval_hh", "/rest/v1/rpc/derive_interval_hh", JSON_BODY,
     b'{"register_id":"%b","period_from":"2026-01-01","period_to":"2026-01-02"}' % TWICE, "PT404"),
    ("POST /admin/clients", "/admin/clients", JSON_BODY, b"{}", "invalid_parameter"),
    ("POST /admin/clients", "/admin/clients", JSON_BODY | {"Content-Length": "9"}, b"{",
     "request_timeout"),
    ("POST /admin/clients", "/admin/clients", {"Content-Encoding": "br"}, b"x",
     "unsupported_encoding"),
    ("GET /admin/clients/{client_id}", "/admin/clients/none", {}, None, "not_found"),
    ("GET /admin/clients", "/admin/clients", {"as": "reader"}, None, "forbidden"),
    ("POST /auth/token", "/auth/token", {"Content-Length": "99999999999"}, b"x",
     "body_too_large"),
]  # fmt: skip


def send(stack: Stack, token: str, method: str, target: str, headers: dict[str, str],
         body: bytes | None) -> httpx.Response:  # fmt: skip
    """Send a request unchanged, whatever Content-Length it claims; return the response."""
    url = urlsplit(stack.contract["base_url"])
    known = {"Host": url.netloc, "Connection": "close", "Authorization": f"Bearer {token}"}
    if body is not None:
        known["Content-Length"] = str(len(body))
    lines = [f"{name}: {value}" for name, value in (known | headers).items()]
    raw = "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""]).encode() + (body or b"")
    with socket.create_connection((url.hostname, url.port), timeout=10) as bare:
        bare.sendall(raw)
        with http.client.HTTPResponse(bare, method=method) as answer:
            answer.begin()
            return httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {case[4]}")
def test_an_error_is_sent_as_it_is_described(
    strict: Stack, token: str, described: Document,
    case: tuple[str, str, dict[str, str], bytes | None, str],
) -> None:  # fmt: skip
    operation, target, headers, body, code = case
    esco = strict.contract["escos"]["wlce"]["id"]
    others = {
        "operator": Grant("flc_operator", "operator", None, None, ("admin",)),
        "reader": Grant("flc_reader", "public_backend", esco, "wlce", ("read",)),
    }
    headers = dict(headers)
    if name := headers.pop("as", None):
        token = strict.issue(others[name])
    if name := headers.pop("twice", None):
        headers[name] = f"Bearer {token}"  # a second header, spelled differently from Authorization
    if body:
        body = body.replace(b"ESCO", esco.encode())
    if code == "PT422" and b"%b" in (body or b""):
        with strict.client("wlce") as client:
            rows = client.get("/rest/v1/meter_registers?limit=1&select=register_id").json()
        body = (body or b"") % rows[0]["register_id"].encode()
    answer = send(strict, token, operation.partition(" ")[0], target, headers, body)
    check(described, operation, answer, code)


@contextmanager
def locked(stack: Stack, table: str) -> Iterator[Callable[[str, int], bool]]:
    """Lock a table; yield a function that tells if a number of a login's queries wait for it."""
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as watcher:

        def waiting(login: str, count: int) -> bool:
            row = watcher.execute(
                "select count(*) from pg_stat_activity"
                " where wait_event_type = 'Lock' and usename = %s",
                (login,),
            ).fetchone()
            return row == (count,)

        with psycopg.connect(stack.contract["database_url"]) as connection:
            connection.execute(f"lock table flows.{table} in access exclusive mode")
            yield waiting


def test_a_slow_and_a_busy_database_are_told_as_described(
    strict: Stack, client: httpx.Client, described: Document
) -> None:
    sites, energy = "GET /rest/v1/sites_new", "GET /v1/energy"
    with (
        concurrent.futures.ThreadPoolExecutor(4) as pool,
        httpx.Client(base_url=client.base_url, timeout=30) as other,
    ):
        hmce = strict.contract["escos"]["hmce"]
        grant = Grant("flc_others", "flows", hmce["id"], "hmce", ("read", "admin"))
        other.headers["Authorization"] = f"Bearer {strict.issue(grant)}"
        with locked(strict, "sites_new") as waiting:
            slow = [pool.submit(client.get, SITES) for _ in range(2)]
            wait_until(lambda: waiting("authenticator", 2))
            check(described, sites, client.get(SITES), "rate_limited")
            check(described, energy, client.get(ENERGY), "rate_limited")
            check(described, sites, other.get("/rest/v1/regions"), "unavailable")
            for request in slow:
                check(described, sites, request.result(), "upstream_timeout")
        with locked(strict, "circuit_register") as waiting:
            held = pool.submit(client.get, ENERGY)
            wait_until(lambda: waiting("flows_gateway", 1))
            check(described, energy, other.get(ENERGY), "unavailable")
            check(described, "GET /admin/clients", other.get("/admin/clients"), "unavailable")
        assert held.result().status_code == 200


def test_a_query_that_takes_too_long_is_told_as_described(
    strict: Stack, client: httpx.Client, described: Document
) -> None:
    with psycopg.connect(strict.contract["database_url"], autocommit=True) as admin:
        admin.execute("alter role flows set statement_timeout = '300ms'")
        try:
            with locked(strict, "circuit_register"):
                check(described, "GET /v1/energy", client.get(ENERGY), "timeout")
            admin.execute("notify pgrst, 'reload config'")
            with locked(strict, "sites_new"):
                answer = wait_until(
                    lambda: (a := client.get(SITES)).json()["code"] != "upstream_timeout" and a
                )
                check(described, "GET /rest/v1/sites_new", answer, "57014")
        finally:
            admin.execute("alter role flows set statement_timeout = '30s'")
            admin.execute("notify pgrst, 'reload config'")


def test_a_fault_and_a_conflict_of_the_gateways_own_are_told_as_described(
    strict: Stack, client: httpx.Client, described: Document
) -> None:
    with psycopg.connect(strict.contract["database_url"], autocommit=True) as admin:
        admin.execute(
            "alter function flows.data_state(tstzrange, text[]) rename to data_state_gone"
        )
        try:
            check(described, "GET /v1/energy", client.get(ENERGY), "internal_error")
        finally:
            admin.execute(
                "alter function flows.data_state_gone(tstzrange, text[]) rename to data_state"
            )
    made = client.post("/admin/clients", json={"name": "errors", "scopes": ["read"]}).json()
    path = f"/admin/clients/{made['id']}/secrets"
    assert client.post(path).status_code == 201
    check(described, "POST /admin/clients/{client_id}/secrets", client.post(path), "conflict")


@pytest.mark.parametrize(
    ("path", "method"), [("/rest/v1/escos", "TRACE"), ("/live", "POST"), ("/v1/energy", "PUT")]
)
def test_a_method_that_is_not_described_is_refused(
    client: httpx.Client, path: str, method: str
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == MethodNotAllowed.status
    assert answer.headers["content-type"] == PROBLEM_JSON
    expected = {"code": MethodNotAllowed.code, "title": MethodNotAllowed.title}
    assert expected.items() <= answer.json().items()


def test_the_token_endpoints_errors_are_described(
    client: httpx.Client, described: Document
) -> None:
    form = {"grant_type": "client_credentials", "client_id": "flc_none", "client_secret": "x"}
    sent = {}
    with httpx.Client(base_url=client.base_url, timeout=30) as stranger:
        for _ in range(12):
            answer = stranger.post("/auth/token", data=form)
            sent[answer.status_code] = answer
        sent[400] = stranger.post("/auth/token", data={})
    for status in (400, 401, 429):
        content = response(described, "POST", "/auth/token", status)["content"]
        assert content.keys() == {sent[status].headers["content-type"]}
        [example] = bodies(content["application/json"])
        if status != 400:
            assert example == sent[status].json()
        assert sent[status].json().keys() == example.keys()
        errors = described["components"]["schemas"]["TokenError"]["properties"]["error"]["enum"]
        assert sent[status].json()["error"] in errors
