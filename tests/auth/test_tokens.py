"""Tokens: clients get what they are allowed; forged tokens get nothing, also from PostgREST."""

import hmac
import time
from base64 import urlsafe_b64encode
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.auth.keys import load_keys
from tests.conftest import Stack


def ask(stack: Stack, esco: str, **form: str) -> httpx.Response:
    """Request a token as the demo client of an ESCO."""
    client = stack.contract["escos"][esco]
    with stack.client(None) as http:
        return http.post(
            "/auth/token",
            data={"grant_type": "client_credentials"} | form,
            auth=(client["client_id"], client["client_secret"]),
        )


def test_client_credentials_give_a_token_that_reads(stack: Stack) -> None:
    answer = ask(stack, "hmce", scope="read")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert (body["token_type"], body["scope"]) == ("Bearer", "read")
    claims = jwt.decode(body["access_token"], options={"verify_signature": False})
    assert (claims["role"], claims["esco_code"]) == ("public_backend", "hmce")
    headers = {"Authorization": f"Bearer {body['access_token']}"}
    for url in (stack.contract["rest_url"], stack.contract["postgrest_url"]):
        rows = httpx.get(f"{url}/escos?select=code", headers=headers).json()
        assert rows == [{"code": "hmce"}]


def test_wrong_secret_and_unknown_client_get_the_same_answer(stack: Stack) -> None:
    known = stack.contract["escos"]["wlce"]["client_id"]
    with stack.client(None) as http:
        answers = [
            http.post("/auth/token", data={"grant_type": "client_credentials"}, auth=(name, "no"))
            for name in (known, "flc_nobody")
        ]
    assert [answer.status_code for answer in answers] == [401, 401]
    assert answers[0].content == answers[1].content
    assert answers[0].json()["error"] == "invalid_client"


def test_scope_is_never_widened(stack: Stack) -> None:
    answer = ask(stack, "wlce", scope="read admin")
    assert answer.status_code == 400
    assert answer.json()["error"] == "invalid_scope"


def test_credentials_in_the_url_are_refused(stack: Stack) -> None:
    with stack.client(None) as http:
        answer = http.post("/auth/token?client_secret=x", data={"grant_type": "client_credentials"})
    assert answer.status_code == 400


def forge(stack: Stack, how: str) -> str:
    """Return a token with one fault, named by `how`."""
    key = load_keys(stack.home / "keys")[-1]
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": stack.contract["base_url"], "aud": "flows", "sub": "x", "client_id": "x",
        "role": "flows", "esco": stack.contract["escos"]["wlce"]["id"], "scope": "read",
        "jti": f"forged-{how}", "iat": now, "nbf": now, "exp": now + 600,
    }  # fmt: skip
    headers: dict[str, Any] = {"kid": key.kid, "typ": "at+jwt"}
    changes: dict[str, Any] = {
        "other audience": {"aud": "other"}, "no audience": {"aud": None},
        "empty audience": {"aud": []}, "other issuer": {"iss": "http://other"},
        "expired": {"exp": now - 60}, "not yet valid": {"nbf": now + 600},
        "role tsdbadmin": {"role": "tsdbadmin"}, "role postgres": {"role": "postgres"},
        "no esco": {"esco": None}, "empty esco": {"esco": ""}, "esco list": {"esco": []},
    }  # fmt: skip
    claims |= changes.get(how, {})
    claims = {name: value for name, value in claims.items() if value is not None}
    wrong_headers: dict[str, dict[str, Any]] = {
        "other type": {"typ": "JWT"}, "unknown kid": {"kid": "../x"}, "critical": {"crit": ["b64"]},
    }  # fmt: skip
    headers |= wrong_headers.get(how, {})
    if how == "none":
        return jwt.encode(claims, "", algorithm="none", headers=headers)
    if how == "HS256 with the public key":
        # Sign by hand: the library refuses a public key as a shared secret.
        form = PublicFormat.SubjectPublicKeyInfo
        public = key.private.public_key().public_bytes(Encoding.PEM, form)
        unsigned = jwt.encode(claims, "x" * 32, algorithm="HS256", headers=headers).rpartition(".")[
            0
        ]
        signature = hmac.digest(public, unsigned.encode(), "sha256")
        return f"{unsigned}.{urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    return jwt.encode(claims, key.private, algorithm="RS256", headers=headers)


REFUSED = {
    "none": 401, "HS256 with the public key": 401, "critical": 401, "other type": 401,
    "unknown kid": 401, "other audience": 401, "no audience": 401, "empty audience": 401,
    "other issuer": 401, "expired": 401, "not yet valid": 401, "role tsdbadmin": 403,
    "role postgres": 403, "no esco": 403, "empty esco": 403, "esco list": 403,
}  # fmt: skip


def test_the_forger_can_make_a_good_token_too(stack: Stack) -> None:
    headers = {"Authorization": f"Bearer {forge(stack, 'good')}"}
    assert httpx.get(f"{stack.contract['rest_url']}/escos", headers=headers).status_code == 200


@pytest.mark.parametrize("how", REFUSED)
def test_a_bad_token_is_refused(stack: Stack, how: str) -> None:
    headers = {"Authorization": f"Bearer {forge(stack, how)}"}
    answer = httpx.get(f"{stack.contract['rest_url']}/escos", headers=headers)
    assert answer.status_code == REFUSED[how]


@pytest.mark.parametrize("how", ["no audience", "empty audience", "no esco", "empty esco"])
def test_postgrest_itself_refuses_what_it_would_accept_alone(stack: Stack, how: str) -> None:
    headers = {"Authorization": f"Bearer {forge(stack, how)}"}
    answer = httpx.get(f"{stack.contract['postgrest_url']}/escos", headers=headers)
    assert answer.status_code in (401, 403)


@pytest.mark.quiet
def test_a_wrong_secret_and_an_unknown_client_take_the_same_time(stack: Stack) -> None:
    known = stack.contract["escos"]["bfce"]["client_id"]
    times: dict[str, list[float]] = {known: [], "flc_nobody_known": []}
    with stack.client(None) as http:
        for _ in range(6):
            for name, seconds in times.items():
                started = time.perf_counter()
                answer = http.post(
                    "/auth/token", data={"grant_type": "client_credentials"}, auth=(name, "no")
                )
                seconds.append(time.perf_counter() - started)
                assert answer.status_code == 401
    # Each refusal takes two hashes, tens of milliseconds; a hash more or less would show. Compare
    # the quickest times, as the others depend on what else the machine is doing.
    quickest = [min(seconds) for seconds in times.values()]
    assert max(quickest) / min(quickest) < 1.6
