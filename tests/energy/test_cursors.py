"""Cursors: only those that a gateway has signed for the same request are followed."""

import base64
import hashlib
import time
from pathlib import Path

import pytest

from app.auth.keyring import AuthState, Keyring
from app.auth.keys import SigningKey, create_key
from app.energy import cursors
from app.energy.cursors import Position
from app.errors import Unprocessable
from tests.conftest import Stack

PAYLOADS = [
    b"[]", b"{}", b"[1]", b"null", b"[0,[]]", b"[1767225600,[null]]", b'["x",["y"]]',
    b"[1e99,[{}]]",
    b"[1767225600,[" + b"[" * 5000, b"\xff", b"[1767225600,[\"\\ud800\"]]",
]  # fmt: skip


def keyring(*held: SigningKey, published: tuple[SigningKey, ...]) -> Keyring:
    """Return a keyring with these private keys, and all the keys that verify."""
    found = Keyring([*held])
    found.update(
        AuthState(
            time.monotonic(),
            keys={key.kid: key.public_jwk for key in published},
            signs_from={key.kid: 0.0 for key in published},
        )
    )
    return found


@pytest.mark.parametrize("payload", PAYLOADS)
def test_67_a_forged_cursor_is_the_callers_fault(stack: Stack, payload: bytes) -> None:
    with stack.client("wlce") as client:
        asked = stack.period(10, 1) | {"granularity": "P1D", "limit": "2"}
        following = client.get("/v1/energy", params=asked).json()["next"]
        raw = base64.urlsafe_b64decode(following + "=" * (-len(following) % 4))
        signature = raw[:256]  # of an RSA key of 2048 bits
        forged = [
            signature + payload,
            hashlib.sha256(payload).digest()[:9] + payload,
            bytes(256) + payload,
            payload,
            raw[:-1],
            raw + b" ",
        ]
        for attempt in forged:
            text = base64.urlsafe_b64encode(attempt).decode().rstrip("=")
            answer = client.get("/v1/energy", params=asked | {"cursor": text})
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")
        other = asked | {"limit": "3", "cursor": following}
        assert client.get("/v1/energy", params=other).status_code == 422
        assert client.get("/v1/energy", params=asked | {"cursor": following}).status_code == 200


def test_67_gateways_follow_each_others_cursors_until_a_key_is_retired(tmp_path: Path) -> None:
    ours, theirs = create_key(tmp_path / "a"), create_key(tmp_path / "b")
    first = keyring(ours, published=(ours, theirs))
    second = keyring(theirs, published=(ours, theirs))
    position = Position(1_767_225_600, ("wlce",))
    written = cursors.write(position, "request", first)
    assert cursors.read(written, "request", second) == position
    with pytest.raises(Unprocessable):
        cursors.read(written, "another request", second)
    with pytest.raises(Unprocessable):
        cursors.read(written, "request", keyring(theirs, published=(theirs,)))
