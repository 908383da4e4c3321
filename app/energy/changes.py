"""Tokens of the changes that a response includes, opaque to callers: `changes` asks for others."""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Self

import orjson

from app.energy.parameters import refuse

CLUSTER = re.compile(r"[0-9]{1,20}/[0-9]{1,10}")
SNAPSHOT = re.compile(r"([0-9]{1,19}):([0-9]{1,19}):((?:[0-9]{1,19}(?:,[0-9]{1,19})*)?)")
LARGEST = 2**63
XIDS_OF_AN_EPOCH = 2**32


@dataclass(frozen=True, slots=True)
class SeenChanges:
    """The transactions whose changes a response includes, as a `pg_snapshot` of a cluster."""

    cluster: str
    snapshot: str

    @property
    def token(self) -> str:
        """The text that callers send back."""
        words = orjson.dumps([self.cluster, self.snapshot])
        return base64.urlsafe_b64encode(words).decode().rstrip("=")

    @classmethod
    def read(cls, token: str) -> Self:
        """Decode a token; Unprocessable if it is none."""
        try:
            words = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        except (binascii.Error, ValueError):
            words = None
        match words:
            case [str(cluster), str(snapshot)]:
                if CLUSTER.fullmatch(cluster) and _is_snapshot(snapshot):
                    return cls(cluster, snapshot)
        raise refuse("changes", token, "must be `next_changes` of an answer")


def _is_snapshot(text: str) -> bool:
    """Return whether PostgreSQL takes a text for a snapshot."""
    found = SNAPSHOT.fullmatch(text)
    if found is None:
        return False
    first, stop = int(found[1]), int(found[2])
    running = [int(number) for number in found[3].split(",") if number]
    between = all(first <= number < stop for number in running)
    # A number whose last 32 bits are zero is no transaction's.
    valid = first % XIDS_OF_AN_EPOCH > 0 and stop % XIDS_OF_AN_EPOCH > 0 and first <= stop < LARGEST
    return valid and between and running == sorted(set(running))
