"""Tokens that are forged or out of time, at the gateway and at PostgREST itself."""

import json
import threading
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from app.auth.keys import SigningKey, load_keys
from app.auth.tokens import CLOCK_SECONDS
from tests.conftest import Stack, wait_until

GATEWAY, POSTGREST = "rest_url", "postgrest_url"
DOORS = (GATEWAY, POSTGREST)


def signing_key(stack: Stack) -> SigningKey:
    """Return the key that the stack signs with."""
    return load_keys(stack.home / "keys")[-1]


def signed(
    stack: Stack,
    claims: dict[str, Any] | None = None,
    headers: dict[str, Any] | None = None,
    key: rsa.RSAPrivateKey | None = None,
) -> str:
    """Return a valid token with changed claims and headers; None leaves one out."""
    own = signing_key(stack)
    now = int(time.time())
    body: dict[str, Any] = {
        "iss": stack.contract["base_url"], "aud": "flows", "sub": "x", "client_id": "x",
        "role": "flows", "esco": stack.contract["escos"]["wlce"]["id"], "scope": "read",
        "jti": str(uuid.uuid4()), "iat": now, "nbf": now, "exp": now + 600,
    } | (claims or {})  # fmt: skip
    body = {name: value for name, value in body.items() if value is not None}
    head = {"kid": own.kid, "typ": "at+jwt"} | (headers or {})
    # Sign by hand: the library refuses to create many of the invalid tokens.
    head = {"alg": "RS256"} | {name: value for name, value in head.items() if value is not None}
    unsigned = ".".join(_b64(json.dumps(part).encode()) for part in (head, body))
    algorithm = RSAAlgorithm(RSAAlgorithm.SHA256)
    return f"{unsigned}.{_b64(algorithm.sign(unsigned.encode(), key or own.private))}"


def _b64(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def answered(stack: Stack, door: str, token: str) -> int:
    """Return the status for a token; `door` is a URL's name in the contract."""
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.get(f"{stack.contract[door]}/escos", headers=headers).status_code


@pytest.fixture(scope="module")
def stranger() -> rsa.RSAPrivateKey:
    """A key that was never published."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def listener() -> Iterator[tuple[str, list[str]]]:
    """An HTTP server that answers every request; yield its URL and the paths requested."""
    asked: list[str] = []

    class Offering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Offering)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    assert httpx.get(f"{url}/it-listens").status_code == 200
    yield url, asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kid", ["known", "unknown", "absent"])
def test_a_key_that_the_token_itself_brings_is_not_used_nor_fetched(
    stack: Stack,
    stranger: rsa.RSAPrivateKey,
    listener: tuple[str, list[str]],
    door: str,
    kid: str,
) -> None:
    url, asked = listener
    jwk: dict[str, Any] = RSAAlgorithm.to_jwk(stranger.public_key(), as_dict=True)
    kids = {"known": signing_key(stack).kid, "unknown": "theirs", "absent": None}
    brought = {"jku": f"{url}/jwks.json", "x5u": f"{url}/x.pem",
               "jwk": jwk | {"kid": kids[kid] or "theirs"}, "kid": kids[kid]}  # fmt: skip
    assert answered(stack, door, signed(stack, headers=brought, key=stranger)) == 401
    # On a valid token these headers are ignored.
    if kid == "known":
        pointing = {"jku": f"{url}/jwks.json", "x5u": f"{url}/x.pem"}
        assert answered(stack, door, signed(stack, headers=pointing)) == 200
    assert asked == ["/it-listens"]


@pytest.mark.parametrize("kid", [None, "", "unknown", "../../etc/passwd", 5, [], {"a": 1}])
def test_without_a_known_kid_the_gateway_takes_no_token(stack: Stack, kid: object) -> None:
    assert answered(stack, GATEWAY, signed(stack, headers={"kid": kid})) == 401


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kid", [None, "unknown", "../x"])
def test_a_stranger_signs_nothing_whatever_kid_it_names(
    stack: Stack, stranger: rsa.RSAPrivateKey, door: str, kid: str | None
) -> None:
    assert answered(stack, door, signed(stack, headers={"kid": kid}, key=stranger)) == 401


@pytest.mark.parametrize(
    ("claims", "allowed"),
    [
        ({"exp": "9999999999x"}, {401}), ({"exp": 1}, {401}), ({"nbf": 9_999_999_999}, {401}),
        ({"aud": ["other", "more"]}, {401}),
        ({"role": "authenticator"}, {401, 403}), ({"role": "tsdbadmin"}, {401, 403}),
        ({"role": "postgres"}, {401, 403}), ({"role": "flows_owner"}, {401, 403}),
        ({"role": None}, {401, 403}),
        # PostgREST answers 400 for a role that the database does not have, and 401 since 13.
        ({"role": "operator"}, {403, 400}), ({"role": ["flows"]}, {401, 400}),
        ({"role": {"flows": 1}}, {401, 400}),
        ({"esco": "all"}, {401, 403}), ({"esco": ["x"]}, {401, 403}), ({"esco": 5}, {401, 403}),
        ({"esco": "' or true --"}, {401, 403}),
        ({"jti": None}, {401}), ({"jti": ""}, {401}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("door", DOORS)
def test_signed_nonsense_is_refused_at_both_doors(
    stack: Stack, door: str, claims: dict[str, Any], allowed: set[int]
) -> None:
    if stack.postgrest >= (13,) and 400 in allowed:
        allowed = allowed - {400} | {401}
    assert answered(stack, door, signed(stack, claims)) in allowed


@pytest.mark.parametrize("claim", ["exp", "iat", "nbf"])
def test_a_time_in_quotes_is_refused(stack: Stack, claim: str) -> None:
    # /v1 does not use PostgREST, so the gateway itself must refuse it, from its cache as well.
    text = str(int(time.time()) + (600 if claim == "exp" else 0))
    headers = {"Authorization": f"Bearer {signed(stack, {claim: text})}"}
    url = f"{stack.contract['base_url']}/v1/latest"
    assert [httpx.get(url, headers=headers).status_code for _ in range(2)] == [401, 401]


@pytest.mark.parametrize(
    "claims", [{"exp": None}, {"iat": None}, {"iss": None}, {"client_id": None},
               {"client_id": ["x"]}, {"jti": 5}, {"aud": {"flows": 1}}],
)  # fmt: skip
def test_the_gateway_asks_for_every_claim_of_rfc_9068(stack: Stack, claims: dict[str, Any]) -> None:
    assert answered(stack, GATEWAY, signed(stack, claims)) == 401


def test_an_array_of_audiences_may_name_others_too(stack: Stack) -> None:
    token = signed(stack, {"aud": ["other", "flows"]})
    assert [answered(stack, door, token) for door in DOORS] == [200, 200]


@pytest.mark.parametrize("ahead", [-60, 60])
@pytest.mark.parametrize("door", DOORS)
def test_an_issuers_clock_that_is_a_minute_off_costs_a_minute_at_most(
    stack: Stack, door: str, ahead: int
) -> None:
    def status(clock: int, lifetime: int) -> int:
        now = int(time.time()) + clock
        return answered(stack, door, signed(stack, {"iat": now, "nbf": now, "exp": now + lifetime}))

    # A difference within the leeway has no effect.
    assert status((CLOCK_SECONDS - 5) * (1 if ahead > 0 else -1), 3600) == 200
    if ahead > 0:  # tokens start to work half a minute later …
        assert status(ahead, 3600) == 401
        assert status(ahead - 35, 3600) == 200
    else:  # … or end a minute sooner, less the leeway, and never late
        assert status(ahead, 3600) == 200
        assert status(ahead, 60 - CLOCK_SECONDS + 5) == 200
        assert status(ahead, 60 - CLOCK_SECONDS - 5) == 401


def test_a_token_is_refused_half_a_minute_after_its_end_though_it_was_good(stack: Stack) -> None:
    now = int(time.time())
    token = signed(stack, {"iat": now - 60, "nbf": now - 60, "exp": now - CLOCK_SECONDS + 8})
    assert jwt.decode(token, options={"verify_signature": False})
    assert answered(stack, GATEWAY, token) == 200
    wait_until(lambda: answered(stack, GATEWAY, token) == 401, seconds=30)
