"""Cursors: the start of the next page, opaque to callers and valid for one set of parameters.

They are signed with the key that signs tokens, so any gateway can tell its own from forged ones.
"""

import base64
import binascii
from dataclasses import dataclass

import orjson

from app.auth.keyring import Keyring
from app.energy.groups import Key
from app.energy.intervals import Instant
from app.energy.parameters import refuse


@dataclass(frozen=True, slots=True)
class Position:
    """The last row of a page: the start of its interval and the key of its group."""

    interval: Instant
    key: Key


def write(position: Position, fingerprint: str, keys: Keyring) -> str:
    """Return the cursor for a position, bound to the request with this fingerprint."""
    payload = orjson.dumps([position.interval, list(position.key)])
    signature = keys.sign(_signed(payload, fingerprint))
    return base64.urlsafe_b64encode(signature + payload).decode().rstrip("=")


def read(cursor: str, fingerprint: str, keys: Keyring) -> Position:
    """Decode a cursor; Unprocessable when it was altered or belongs to another request."""
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except (binascii.Error, ValueError):
        raw = b""
    # Keys may be of several lengths, and so may their signatures.
    for size in keys.signature_bytes:
        signature, payload = raw[:size], raw[size:]
        if payload and keys.verify(_signed(payload, fingerprint), signature):
            interval, key = orjson.loads(payload)
            return Position(interval, tuple(key))
    raise refuse(
        "cursor", cursor, "must be `next` of an answer to a request with the same parameters"
    )


def _signed(payload: bytes, fingerprint: str) -> bytes:
    # A token's signed text is base64 with a dot: no cursor can pass for a token.
    return b"flows cursor\n" + fingerprint.encode() + b"\n" + payload
