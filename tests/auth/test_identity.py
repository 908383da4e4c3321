"""Keys of issuers: fetched within limits, cached, rotated, and used for their own algorithms."""

import asyncio
import threading
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm
from pydantic import SecretStr

from app.auth import identity
from app.auth.identity import (
    IdentityVerifier,
    IssuerUnavailableError,
    SubjectTokenError,
    allowed_algorithms,
    choose_key,
)
from app.auth.issuers import Issuer
from app.auth.outbound import FetchError, Outbound, is_public
from app.settings import IssuerSettings
from tests.auth.issuer_server import AUDIENCE, TestIssuer, public_jwk, running_issuer

PRIVATE = ("127.0.0.1/32",)


def with_outbound(
    work: Callable[[Outbound], Awaitable[None]], private: tuple[str, ...] = PRIVATE
) -> None:
    async def run() -> None:
        async with httpx.AsyncClient(trust_env=False) as http:
            await work(Outbound(http, private, 20.0))

    asyncio.run(run())


def registered(issuer: TestIssuer) -> Issuer:
    return Issuer(uuid.uuid4(), issuer.url, (AUDIENCE,), None, {}, None, None)


def test_a_new_key_of_the_issuer_is_found_and_an_old_one_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(identity, "REFETCH_SECONDS", 0.0)
    with running_issuer() as issuer:

        async def work(outbound: Outbound) -> None:
            verifier = IdentityVerifier(outbound, {})
            known, old = registered(issuer), issuer.token("ann")
            assert (await verifier.verify(known, old))["sub"] == "ann"
            del issuer.keys["rsa"]
            issuer.keys["new"] = ec.generate_private_key(ec.SECP256R1())
            token = issuer.token("ann", "new", "ES256")
            assert (await verifier.verify(known, token))["sub"] == "ann"
            assert issuer.asked.count("/jwks") == 2
            with pytest.raises(SubjectTokenError):
                await verifier.verify(known, old)

        with_outbound(work)


def test_a_key_that_the_issuer_withdraws_is_forgotten_when_keys_are_fetched_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(identity, "REFETCH_SECONDS", 0.0)
    with running_issuer() as issuer:

        async def work(outbound: Outbound) -> None:
            verifier = IdentityVerifier(outbound, {})
            known, stolen = registered(issuer), issuer.token("ann")
            await verifier.verify(known, stolen)
            issuer.keys = {"new": ec.generate_private_key(ec.SECP256R1())}
            await verifier.verify(known, stolen)
            assert issuer.asked.count("/jwks") == 1
            monkeypatch.setattr(identity, "KEYS_FRESH_SECONDS", 0.0)
            with pytest.raises(SubjectTokenError):
                await verifier.verify(known, stolen)

        with_outbound(work)


def test_unknown_keys_make_the_gateway_ask_once_in_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(identity, "REFETCH_SECONDS", 1000.0)
    with running_issuer() as issuer:

        async def work(outbound: Outbound) -> None:
            verifier = IdentityVerifier(outbound, {})
            known, token = registered(issuer), issuer.token("ann")
            await verifier.verify(known, token)
            issuer.keys["unpublished"] = issuer.keys.pop("rsa")
            for _ in range(5):
                with pytest.raises(SubjectTokenError):
                    await verifier.verify(known, issuer.token("ann", "unpublished"))
            assert issuer.asked.count("/jwks") == 1

        with_outbound(work)


def test_keys_outlive_an_issuer_that_is_down_for_an_hour_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work(outbound: Outbound) -> None:
        verifier = IdentityVerifier(outbound, {})
        with running_issuer() as issuer:
            known, token = registered(issuer), issuer.token("ann")
            await verifier.verify(known, token)
        monkeypatch.setattr(identity, "REFETCH_SECONDS", 0.0)
        monkeypatch.setattr(identity, "KEYS_FRESH_SECONDS", 0.0)
        assert (await verifier.verify(known, token))["sub"] == "ann"
        monkeypatch.setattr(identity, "KEYS_KEPT_SECONDS", 0.0)
        with pytest.raises(IssuerUnavailableError):
            await verifier.verify(known, token)

    with_outbound(work)


def test_the_kind_of_key_decides_the_algorithm() -> None:
    key = public_jwk("a", rsa.generate_private_key(public_exponent=65537, key_size=2048))
    weak = public_jwk("a", rsa.generate_private_key(public_exponent=65537, key_size=1024))  # noqa: S505
    curve = public_jwk("a", ec.generate_private_key(ec.SECP256R1()))
    assert allowed_algorithms(key) == ("RS256", "RS384", "RS512")
    assert allowed_algorithms(key | {"alg": "RS384"}) == ("RS384",)
    assert allowed_algorithms(key | {"alg": "PS256"}) == ()
    assert allowed_algorithms({"kty": "oct", "k": "eA", "alg": "HS256"}) == ()
    header = {"kid": "a", "alg": "RS256"}
    assert choose_key([key], header)
    for keys in ([weak], [curve], [key, key], [key | {"use": "enc"}], [{"kty": "oct", "kid": "a"}],
                 [{"kty": "RSA", "kid": "a", "n": 1}], []):  # fmt: skip
        assert choose_key(keys, header) is None
    for algorithm in ("none", "HS256", "PS256", "ES256", "RS999", None, ["RS256"]):
        assert choose_key([key], {"kid": "a", "alg": algorithm}) is None
    assert choose_key([curve], {"kid": "a", "alg": "ES256"})
    # Whoever reads the keys of an issuer that published a private one can sign.
    private = ec.generate_private_key(ec.SECP256R1())
    published = ECAlgorithm.to_jwk(private, as_dict=True) | {"kid": "a"}
    assert choose_key([published], {"kid": "a", "alg": "ES256"}) is None
    assert choose_key([curve], {"kid": "a", "alg": "ES384"}) is None


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1",
     "0.0.0.0", "224.0.0.1", "::1", "fe80::1", "fd00::1", "::ffff:127.0.0.1", "::",  # noqa: S104
     "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1", "2002:a00:1::1", "::a00:1", "fec0::1"],
)  # fmt: skip
def test_inner_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)
    assert is_public("8.8.8.8")
    assert is_public("2606:4700::1111")
    assert is_public("64:ff9b::808:808")

    async def work(outbound: Outbound) -> None:
        host = f"[{address}]" if ":" in address else address
        for scheme in ("http", "https"):
            with pytest.raises(FetchError, match="private"):
                await outbound.fetch(f"{scheme}://{host}:9/jwks")

    with_outbound(work, ())


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://127.0.0.1/", "http://", "https://u:p@127.0.0.1/", "x",
            "http://127.0.0.1:99999/"],
)  # fmt: skip
def test_other_urls_are_not_fetched(url: str) -> None:
    async def work(outbound: Outbound) -> None:
        with pytest.raises(FetchError):
            await outbound.fetch(url)

    with_outbound(work)


def test_a_name_is_looked_up_once_and_leads_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection goes to the address that was checked, whatever a name says a moment later."""
    addresses = ["127.0.0.1"]
    asked: list[str] = []

    async def look_up(_: object, host: str, port: int, **options: object) -> list[Any]:
        asked.append(host)
        return [(2, 1, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", look_up)
    with running_issuer() as issuer:
        url = f"{issuer.url.replace('127.0.0.1', 'issuer.example')}/jwks"

        async def work(outbound: Outbound) -> None:
            assert (await outbound.fetch(url))["keys"]
            assert asked == ["issuer.example"]
            # One inner address among several condemns the name.
            addresses.append("10.0.0.1")
            with pytest.raises(FetchError, match="private"):
                await outbound.fetch(url)

        with_outbound(work)
        assert issuer.asked == ["/jwks"]


def test_a_large_answer_is_not_read_to_its_end() -> None:
    with running_issuer() as issuer:
        issuer.padding = 100 * 2**20

        async def work(outbound: Outbound) -> None:
            with pytest.raises(FetchError, match="too large"):
                await outbound.fetch(f"{issuer.url}/jwks")

        with_outbound(work)
        # The system holds some megabytes between the two.
        assert issuer.sent < 16 * 2**20


def test_an_answer_that_trickles_is_given_up() -> None:
    """The time is that of the whole answer, not of each piece."""
    with running_issuer() as issuer:
        issuer.padding, issuer.pause = 2 * 65_536, 0.3

        async def work() -> None:
            async with httpx.AsyncClient(trust_env=False) as http:
                with pytest.raises(FetchError, match="in time"):
                    await Outbound(http, PRIVATE, 0.5).fetch(f"{issuer.url}/jwks")

        asyncio.run(work())


def test_a_slow_issuer_is_given_up_and_left_alone_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(identity, "REFETCH_SECONDS", 1000.0)
    with running_issuer() as issuer:
        issuer.hold = threading.Event()

        async def work() -> None:
            async with httpx.AsyncClient(trust_env=False) as http:
                verifier = IdentityVerifier(Outbound(http, PRIVATE, 0.2), {})
                known, token = registered(issuer), issuer.token("ann")
                # Those who come at the same time wait for one another's answer.
                found = await asyncio.gather(
                    *(verifier.verify(known, token) for _ in range(5)), return_exceptions=True
                )
                assert {type(each) for each in found} == {IssuerUnavailableError}

        asyncio.run(work())
        assert len(issuer.asked) <= 1


def test_a_secret_that_can_be_guessed_is_refused_at_the_start() -> None:
    with pytest.raises(SystemExit, match="fewer than 32") as refusal:
        IssuerSettings(hmac_secrets='{"project": "short"}')
    assert "short" not in str(refusal.value)
    for text in ("[]", "x", '"x"'):
        with pytest.raises(SystemExit, match="JSON object"):
            IssuerSettings(hmac_secrets=text)
    found = IssuerSettings(hmac_secrets='{"project": "%s"}' % ("x" * 32))
    assert found.hmac_secrets == {"project": SecretStr("x" * 32)}


def test_an_issuer_whose_secret_is_missing_is_unavailable() -> None:
    token = jwt.encode({"iss": "https://x", "sub": "a"}, "x" * 32, "HS256")

    async def work(outbound: Outbound) -> None:
        known = Issuer(uuid.uuid4(), "https://x", (AUDIENCE,), None, {}, None, "project")
        with pytest.raises(IssuerUnavailableError):
            await IdentityVerifier(outbound, {}).verify(known, token)

    with_outbound(work)
