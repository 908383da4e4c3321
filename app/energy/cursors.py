"""Cursors: the start of the next page, opaque to callers and valid for one set of parameters.

A cursor grants no access (the database decides what its bearer sees), so it is not signed: a
checksum is enough to reject anything but a cursor of this API for the same request.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass

import orjson

from app.energy.groups import Key
from app.energy.intervals import Instant
from app.energy.parameters import refuse

CHECK_BYTES = 9


@dataclass(frozen=True, slots=True)
class Position:
    """The last row of a page: the start of its interval and the key of its group."""

    interval: Instant
    key: Key


def write(position: Position, fingerprint: str) -> str:
    """Return the cursor for a position, bound to the request with this fingerprint."""
    payload = orjson.dumps([position.interval, list(position.key)])
    return base64.urlsafe_b64encode(_check(payload, fingerprint) + payload).decode().rstrip("=")


def read(cursor: str, fingerprint: str) -> Position:
    """Decode a cursor; Unprocessable when it was altered or belongs to another request."""
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except (binascii.Error, ValueError):
        raw = b""
    check, payload = raw[:CHECK_BYTES], raw[CHECK_BYTES:]
    if not payload or check != _check(payload, fingerprint):
        raise refuse(
            "cursor", cursor, "must be `next` of an answer to a request with the same parameters"
        )
    interval, key = orjson.loads(payload)
    return Position(interval, tuple(key))


def _check(payload: bytes, fingerprint: str) -> bytes:
    return hashlib.sha256(fingerprint.encode() + b"\n" + payload).digest()[:CHECK_BYTES]
