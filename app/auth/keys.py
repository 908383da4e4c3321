"""The keys that sign tokens: private PEM files, or one in the environment."""

import hashlib
import json
import os
import tempfile
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

ALGORITHM = "RS256"
RSA_BITS = 2048


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private RSA key, its RFC 7638 thumbprint and its public JWK."""

    kid: str
    private: rsa.RSAPrivateKey
    public_jwk: dict[str, Any]


def load_keys(folder: Path, from_environment: str | None = None) -> list[SigningKey]:
    """Return the keys of this installation, oldest first; one is made where there is none.

    A file that is half-written, unreadable or readable by others refuses to start (SystemExit).
    """
    if from_environment:
        return [_parse(from_environment.encode(), "FLOWS_KEYS_SIGNING_KEY")]
    if not any(folder.glob("*.pem")):
        create_key(folder)
    return [_read(file) for file in sorted(folder.glob("*.pem"))]


def create_key(folder: Path) -> SigningKey:
    """Make a key and write its file: whole, or not at all."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    pem = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file = folder / f"signing-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.pem"
    # Written beside and moved into place: a reader sees the whole key or none.
    handle, name = tempfile.mkstemp(dir=folder)
    with os.fdopen(handle, "wb") as partial:
        partial.write(pem)
        partial.flush()
        os.fsync(partial.fileno())
    Path(name).replace(file)
    return _read(file)


def _read(file: Path) -> SigningKey:
    try:
        if file.stat().st_mode & 0o077:
            raise SystemExit(f"{file} can be read by others: chmod 600 it")
        return _parse(file.read_bytes(), str(file))
    except OSError as error:
        raise SystemExit(f"{file} cannot be read: {error.strerror}") from error


# Files are read each second for new keys, and checking a private key takes 50 ms that every request
# at that moment would wait for: what was read once and has not changed is remembered.
@lru_cache(maxsize=16)
def _parse(pem: bytes, source: str) -> SigningKey:
    try:
        private = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise SystemExit(f"{source} cannot be read as a private key: {error}") from error
    if not isinstance(private, rsa.RSAPrivateKey) or private.key_size < RSA_BITS:
        raise SystemExit(f"{source} holds no RSA key of {RSA_BITS} bits or more")
    jwk: dict[str, Any] = RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
    thumbprint = json.dumps(
        {name: jwk[name] for name in ("e", "kty", "n")}, separators=(",", ":"), sort_keys=True
    )
    digest = hashlib.sha256(thumbprint.encode()).digest()
    kid = urlsafe_b64encode(digest).rstrip(b"=").decode()
    public = {name: jwk[name] for name in ("kty", "n", "e")}
    return SigningKey(kid, private, public | {"kid": kid, "use": "sig", "alg": ALGORITHM})
