"""The key that signs tokens: a private PEM file; its public half is published in the database."""

import hashlib
import json
import os
import tempfile
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from psycopg.types.json import Jsonb

ALGORITHM = "RS256"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private RSA key, its RFC 7638 thumbprint and its public JWK."""

    kid: str
    private: rsa.RSAPrivateKey
    public_jwk: dict[str, Any]


def load_or_create(folder: Path) -> SigningKey:
    """Read `signing.pem`, or make it on the first start.

    A file that is half-written, unreadable or readable by others refuses to start (SystemExit).
    """
    file = folder / "signing.pem"
    if not file.exists():
        _create(file)
    if file.stat().st_mode & 0o077:
        raise SystemExit(f"{file} can be read by others: chmod 600 it")
    try:
        private = serialization.load_pem_private_key(file.read_bytes(), password=None)
    except (ValueError, OSError) as error:
        raise SystemExit(f"{file} cannot be read as a private key: {error}") from error
    if not isinstance(private, rsa.RSAPrivateKey):
        raise SystemExit(f"{file} holds no RSA key")
    jwk: dict[str, Any] = RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
    thumbprint = json.dumps(
        {name: jwk[name] for name in ("e", "kty", "n")}, separators=(",", ":"), sort_keys=True
    )
    digest = hashlib.sha256(thumbprint.encode()).digest()
    kid = urlsafe_b64encode(digest).rstrip(b"=").decode()
    public = {name: jwk[name] for name in ("kty", "n", "e")}
    return SigningKey(kid, private, public | {"kid": kid, "use": "sig", "alg": ALGORITHM})


def publish(connection: psycopg.Connection[Any], key: SigningKey) -> None:
    """Put the public half where PostgREST reads it, before the key signs anything."""
    connection.execute(
        "insert into gateway.signing_key (kid, public_jwk) values (%s, %s) on conflict do nothing",
        (key.kid, Jsonb(key.public_jwk)),
    )


def _create(file: Path) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    pem = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    # Written beside and moved into place: a reader sees the whole key or none.
    handle, name = tempfile.mkstemp(dir=file.parent)
    with os.fdopen(handle, "wb") as partial:
        partial.write(pem)
        partial.flush()
        os.fsync(partial.fileno())
    Path(name).replace(file)
