"""Tokens of the changes that a response includes: `changes` asks for others.

They are encrypted, since transactions are numbered for all ESCOs together.
"""

import base64
import binascii
import math
import re
from dataclasses import dataclass
from typing import Self

import orjson

from app.auth.keyring import Keyring
from app.energy.parameters import refuse

PURPOSE = b"changes"
# Padded to a multiple of these, else the length would tell how many transactions ran.
BLOCK_BYTES = 256
TAG_BYTES = 16
# A token of a version that did not encrypt them.
PLAIN = re.compile(rb'\["[0-9]+/[0-9]+","[0-9]+:[0-9]+:[0-9,]*"\]')


@dataclass(frozen=True, slots=True)
class SeenChanges:
    """The transactions whose changes a response includes, as a `pg_snapshot` of a cluster."""

    cluster: str
    snapshot: str

    def token(self, keys: Keyring) -> str:
        """Return the text that callers send back, the same for the same transactions."""
        words = orjson.dumps([self.cluster, self.snapshot])
        padded = words.ljust(math.ceil(len(words) / BLOCK_BYTES) * BLOCK_BYTES)
        return base64.urlsafe_b64encode(keys.seal(padded, PURPOSE)).decode().rstrip("=")

    @classmethod
    def read(cls, token: str, keys: Keyring) -> Self | None:
        """Decode a token; None if it is another database's, or an earlier version's.

        Unprocessable if it is none.
        """
        try:
            sealed = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except (binascii.Error, ValueError):
            sealed = b""
        if words := keys.unseal(sealed, PURPOSE):
            return cls(*orjson.loads(words))
        is_others = len(sealed) % BLOCK_BYTES == TAG_BYTES < len(sealed)
        if is_others or PLAIN.fullmatch(sealed):
            return None
        raise refuse("changes", token, "must be `next_changes` of an answer")
