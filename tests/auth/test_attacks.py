"""Attacks of strangers and of partners' admins on the authorization server."""

import asyncio
import base64
import collections
import concurrent.futures
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from app.auth import throttle as throttle_module
from app.auth.deps import client_address
from app.auth.throttle import Throttle, Throttled
from app.auth.tokens import Grant
from app.settings import LimitsSettings, Settings
from tests.auth.test_clients import RIGHTS, ask, bearer, make
from tests.conftest import Stack, another_gateway, wait_until

GRANT = {"grant_type": "client_credentials"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def basic(pair: bytes) -> dict[str, str]:
    """Return an HTTP Basic header with these bytes, unencoded."""
    return {"Authorization": "Basic " + base64.b64encode(pair).decode()}


@pytest.fixture(scope="module")
def own(stack: Stack) -> Iterator[Stack]:
    """A gateway of its own, so that throttled guessing does not disturb other tests."""
    with another_gateway(stack, FLOWS_TRUSTED_PROXIES="127.0.0.1") as own:
        yield own


@pytest.fixture(scope="module")
def wlce(own: Stack) -> Iterator[httpx.Client]:
    """An HTTP client with an admin token of wlce."""
    with bearer(own, make(own, "admin", "--esco", "wlce", *RIGHTS["all"])) as client:
        yield client


def token(own: Stack, address: str = "192.0.2.1", **send: Any) -> httpx.Response:
    """Request a token as a proxy forwards it from an address."""
    headers = {"X-Forwarded-For": address} | send.pop("headers", {})
    url = own.contract["base_url"] + "/auth/token"
    return httpx.post(url, headers=headers, timeout=60, **send)


@pytest.mark.parametrize(
    "pair",
    [b":", b"\xff:\xff", b"a%00b:c", b"a\x00b:c", b"a:%00", b"x" * 8000 + b":y",
     "flc_ünknown\u202e:\U0001f4a9".encode(), b"%ff%fe:%ed%a0%80", b"no colon"],
)  # fmt: skip
def test_a_strange_client_id_is_an_unknown_client(own: Stack, pair: bytes) -> None:
    answer = token(own, f"198.51.100.{len(pair) % 250}", data=GRANT, headers=basic(pair))
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert answer.headers["www-authenticate"] == 'Basic realm="flows"'
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("send", "status", "error"),
    [
        ({"data": GRANT, "headers": {"Authorization": "Bearer x"}}, 401, "invalid_client"),
        ({"data": GRANT}, 401, "invalid_client"),
        ({"json": GRANT}, 400, "invalid_request"),
        ({"content": b""}, 400, "invalid_request"),
        ({"content": b"", "headers": FORM}, 400, "invalid_request"),
        ({"data": {"scope": "read"}}, 400, "invalid_request"),
        ({"data": {"grant_type": ""}}, 400, "invalid_request"),
        ({"data": {"grant_type": "password", "username": "a"}}, 400, "unsupported_grant_type"),
        ({"content": b"grant_type=client_credentials&grant_type=client_credentials",
          "headers": FORM}, 400, "invalid_request"),
        ({"data": GRANT | {"client_id": "a", "client_secret": "b"}, "headers": basic(b"a:b")},
         400, "invalid_request"),
        ({"data": GRANT | {"client_id": "another"}, "headers": basic(b"a:b")},
         400, "invalid_request"),
        ({"data": GRANT, "files": {"x": b"y"}}, 400, "invalid_request"),
    ],
)  # fmt: skip
def test_errors_have_the_codes_of_rfc_6749(
    own: Stack, send: dict[str, Any], status: int, error: str
) -> None:
    answer = token(own, "203.0.113.1", **send.copy())
    assert (answer.status_code, answer.json()["error"]) == (status, error), answer.text
    assert set(answer.json()) == {"error", "error_description"}
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    challenged = answer.headers.get("www-authenticate", "").startswith("Basic ")
    assert challenged == (status == 401)


def test_two_authorization_headers_are_refused(own: Stack) -> None:
    pairs = [*basic(b"a:b").items(), *basic(b"c:d").items()]
    url = own.contract["base_url"] + "/auth/token"
    answer = httpx.post(url, data=GRANT, headers=pairs)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


def test_basic_credentials_are_form_encoded(own: Stack) -> None:
    client = own.contract["escos"]["wlce"]

    def encoded(text: str) -> str:
        return "".join(f"%{ord(letter):02X}" for letter in text)

    pair = f"{encoded(client['client_id'])}:{encoded(client['client_secret'])}"
    assert token(own, data=GRANT, headers=basic(pair.encode())).status_code == 200
    by_form = {name: client[name] for name in ("client_id", "client_secret")}
    assert token(own, data=GRANT | by_form).status_code == 200


def test_a_body_without_end_is_not_collected(own: Stack) -> None:
    url = httpx.URL(own.contract["base_url"])
    head = (
        "POST /auth/token HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        f"Content-Type: {FORM['Content-Type']}\r\n\r\n"
    )
    with socket.create_connection((url.host, url.port), timeout=10) as connection:
        connection.sendall(head.encode() + b"5000\r\n" + b"y" * 0x5000 + b"\r\n")
        # The response comes while the body is still being sent.
        assert connection.recv(65_536).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("method", "path", "send", "status"),
    [
        ("POST", "clients", {"json": {"name": "a\0b", "scopes": ["read"]}}, 422),
        ("POST", "clients", {"json": {"name": "a", "scopes": ["read"], "esco": "a\0b"}}, 404),
        ("POST", "clients", {"content": b'{"name":"\\ud800","scopes":["read"]}'}, 422),
        ("POST", "clients", {"content": b'{"\\ud800":1}'}, 422),
        ("POST", "clients",
         {"content": b'{"name":"a","scopes":["read"],"lifetime_seconds":NaN}'}, 422),
        ("POST", "clients", {"json": {"name": "a", "scopes": ["read"],
                                      "expires_at": "9999-12-31T23:59:59-23:00"}}, 422),
        ("POST", "clients", {"json": {"name": "a", "scopes": ["read"],
                                      "expires_at": "0001-01-01T00:00:00+23:00"}}, 422),
        ("POST", "clients", {"json": {"name": "a", "scopes": ["read"], "role": "operator"}}, 422),
        ("POST", "clients", {"content": b"[" * 60_000}, 400),
        ("GET", "clients/a%00b", {}, 422),
        ("GET", "clients/%F0%9F%92%A9", {}, 404),
        ("GET", "audit?before=99999999999999999999999999", {}, 422),
        ("GET", "audit?limit=100000", {}, 422),
    ],
)  # fmt: skip
def test_nonsense_at_admin_is_the_callers_fault(
    wlce: httpx.Client, method: str, path: str, send: dict[str, Any], status: int
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = wlce.request(method, f"/admin/{path}", headers=headers, **send)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    json.loads(answer.content)


def test_an_admin_reaches_no_further_than_its_esco(own: Stack, wlce: httpx.Client) -> None:
    with bearer(own, make(own, "hmce", "--esco", "hmce", *RIGHTS["all"])) as hmce:
        foreign = hmce.post("/admin/clients", json={"name": "x", "scopes": ["read"]}).json()
        mine = wlce.post("/admin/clients", json={"name": "x", "scopes": ["read"]}).json()
        # An admin gains nothing by creating, moving or taking over a client …
        for wanted in ({"esco": "hmce"}, {"esco": None}, {"role": "operator"}, {"id": "x"}):
            assert wlce.patch(f"/admin/clients/{mine['id']}", json=wanted).status_code == 422
        body = {"name": "x", "scopes": ["read"], "esco": "hmce"}
        assert wlce.post("/admin/clients", json=body).status_code == 404
        secret = foreign["secrets"][0]["id"]
        path = f"/admin/clients/{mine['id']}/secrets/{secret}"
        assert wlce.delete(path).status_code == 404
        assert ask(own, foreign["id"], foreign["client_secret"]).status_code == 200
        # … nor by reading the audit log.
        audit = wlce.get("/admin/audit?limit=1000").text
        assert foreign["id"] not in audit
        assert mine["id"] in audit
        assert {entry["esco"] for entry in json.loads(audit)} == {
            own.contract["escos"]["wlce"]["id"]
        }
        operator = make(own, "operator")
        assert wlce.get(f"/admin/clients/{operator['id']}").status_code == 404
        assert wlce.post(f"/admin/clients/{operator['id']}/secrets").status_code == 404


def test_scopes_are_what_a_token_may_do(own: Stack) -> None:
    client = make(own, "all", "--esco", "wlce", *RIGHTS["all"])
    with bearer(own, client, scope="read write") as narrowed:
        assert narrowed.get("/admin/clients").status_code == 403
        assert (
            narrowed.patch(f"/admin/clients/{client['id']}", json={"name": "x"}).status_code == 403
        )
    with bearer(own, client, scope="read") as reader:
        body = {"esco": own.contract["escos"]["wlce"]["id"], "code": "x", "name": "x"}
        assert reader.post("/rest/v1/sites_new", json=body).status_code in (401, 403)
    for scope in ("operator", "read READ", "read,write", "*", "admin:all"):
        answer = ask(own, client["id"], client["client_secret"], scope=scope)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_scope")


def test_a_monitoring_token_cannot_administer(own: Stack) -> None:
    grant = Grant("flc_monitoring", "grafanareader", None, None, ("read", "admin"))
    widened = own.issue(grant)
    headers = {"Authorization": f"Bearer {widened}"}
    for path in ("clients", "escos", "audit"):
        answer = httpx.get(f"{own.contract['base_url']}/admin/{path}", headers=headers)
        assert answer.status_code == 403
    monitoring = make(own, "grafana", "--monitoring")
    with bearer(own, make(own, "operator")) as operator:
        path = f"/admin/clients/{monitoring['id']}"
        assert operator.patch(path, json={"scopes": ["admin"]}).status_code == 422
        assert operator.patch(path, json={"name": "Grafana"}).status_code == 200


def test_a_token_issued_while_its_client_is_disabled_does_not_work(
    own: Stack, wlce: httpx.Client
) -> None:
    client = wlce.post("/admin/clients", json={"name": "x", "scopes": ["read"]}).json()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, own, client["id"], client["client_secret"]) for _ in range(12)]
        concurrent.futures.wait(asked, return_when=concurrent.futures.FIRST_COMPLETED)
        assert wlce.delete(f"/admin/clients/{client['id']}").status_code == 204
    issued = [answer.result().json().get("access_token") for answer in asked]
    assert any(issued)
    with httpx.Client(base_url=own.contract["base_url"]) as http:

        def statuses() -> set[int]:
            return {
                http.get(f"{own.contract[door]}/escos", headers=bearing).status_code
                for bearing in ({"Authorization": f"Bearer {each}"} for each in issued if each)
                for door in ("rest_url", "postgrest_url")
            }

        wait_until(lambda: statuses() == {401}, seconds=5)


def test_introspection_tells_strangers_nothing(own: Stack) -> None:
    mine = ask(own, *(own.contract["escos"]["wlce"][n] for n in ("client_id", "client_secret")))
    other = own.contract["escos"]["hmce"]
    tried = [
        mine.json()["access_token"],
        "x",
        "",
        "a.b.c",
        "\U0001f4a9",
        "eyJhbGciOiJub25lIn0.e30.",
    ]
    answers = {
        httpx.post(
            own.contract["base_url"] + "/auth/introspect",
            data={"token": text, "token_type_hint": "access_token"},
            auth=(other["client_id"], other["client_secret"]),
        ).text
        for text in tried
    }
    assert answers == {'{"active":false}'}
    answer = httpx.post(own.contract["base_url"] + "/auth/introspect", data={"token": tried[0]})
    assert answer.status_code == 401


def guess(own: Stack, client_id: str, *addresses: str) -> int:
    """Guess a secret and return the status; each address is a line of X-Forwarded-For."""
    headers = [("X-Forwarded-For", address) for address in addresses]
    headers += basic(f"{client_id}:guess".encode()).items()
    url = own.contract["base_url"] + "/auth/token"
    return httpx.post(url, data=GRANT, headers=headers, timeout=60).status_code


def test_guesses_sent_at_once_are_throttled_and_starve_nobody(own: Stack) -> None:
    with concurrent.futures.ThreadPoolExecutor(60) as pool:
        guesses = [pool.submit(guess, own, "flc_demo_wlce", "192.0.2.77") for _ in range(60)]
        with own.client("wlce") as client:
            # Requests that wait for hashing hold no database connection.
            assert client.get("/v1/energy", params={"period_from": "2026-01-01T00:00Z",
                "period_to": "2026-01-02T00:00Z"}).status_code == 200  # fmt: skip
        statuses = collections.Counter(done.result() for done in guesses)
    assert statuses[401] <= 11, statuses  # ten, and one concurrent with the tenth
    assert statuses[401] + statuses[429] == 60


def test_x_forwarded_for_does_not_evade_the_throttle(own: Stack) -> None:
    # The proxy's address is the last one, appended or on a separate line.
    lines = [guess(own, "flc_demo_bfce", f"10.0.0.{n}", "192.0.2.88") for n in range(12)]
    assert lines == [401] * 10 + [429] * 2
    appended = [guess(own, "flc_demo_hmce", f"10.0.0.{n}, 192.0.2.89") for n in range(12)]
    assert appended == [401] * 10 + [429] * 2


async def attempt(throttle: Throttle, client: str, address: str, *, right: bool) -> bool:
    """Make an attempt; return whether it was checked rather than throttled."""
    try:
        async with throttle.turn(client, address) as turn:
            await turn.ended(succeeded=right)
    except Throttled as throttled:
        return not 1 <= throttled.seconds <= 60
    return True


def test_a_client_is_not_locked_out_at_its_usual_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle_module, "REFUSAL_SECONDS", 0.0)

    async def tried() -> None:
        throttle = Throttle(LimitsSettings())
        assert await attempt(throttle, "victim", "192.0.2.1", right=True)
        looked_at = [
            await attempt(throttle, "victim", f"198.51.100.{n % 20}", right=False)
            for n in range(200)
        ]
        assert sum(looked_at) == 100
        assert not await attempt(throttle, "victim", "203.0.113.9", right=True)
        assert await attempt(throttle, "victim", "192.0.2.1", right=True)
        # An IPv6 /64 counts as one address; IPv4 addresses count separately.
        looked_at = [
            await attempt(throttle, "c", f"2001:db8::{n:x}", right=False) for n in range(20)
        ]
        assert sum(looked_at) == 10
        looked_at = [
            await attempt(throttle, f"c{n}", f"::ffff:192.0.2.{n}", right=False) for n in range(40)
        ]
        assert all(looked_at)

    asyncio.run(tried())


def test_an_untrusted_peer_is_not_believed() -> None:
    headers = [(b"x-forwarded-for", b"10.0.0.1")]
    scope = {"type": "http", "headers": headers, "client": ("198.51.100.1", 1)}
    settings = Settings(trusted_proxies=["127.0.0.1"])
    assert client_address(Request(scope), settings) == "198.51.100.1"


def test_a_peer_of_a_trusted_network_is_believed_as_far_as_the_next_that_is_not() -> None:
    headers = [(b"x-forwarded-for", b"10.9.9.9, 203.0.113.7, 10.0.0.1")]
    scope = {"type": "http", "headers": headers, "client": ("10.0.0.2", 1)}
    settings = Settings(trusted_proxies="10.0.0.0/8, ::1")
    assert client_address(Request(scope), settings) == "203.0.113.7"
    assert client_address(Request(scope | {"client": ("unix", 0)}), settings) == "unix"
