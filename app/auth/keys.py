"""The keys that sign tokens, read from PEM files or from the environment."""

import hashlib
import json
import logging
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
from jwt.exceptions import InvalidKeyError

logger = logging.getLogger(__name__)

ALGORITHM = "RS256"
RSA_BITS = 2048


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private RSA key, its RFC 7638 thumbprint and its public JWK."""

    kid: str
    private: rsa.RSAPrivateKey
    public_jwk: dict[str, Any]


def load_keys(folder: Path, from_environment: str | None = None) -> list[SigningKey]:
    """Return the keys of this installation, oldest first; create one if there is none.

    SystemExit if a file is incomplete, cannot be read or written, or can be read by others.
    """
    if from_environment:
        return [_parse(from_environment.encode(), "FLOWS_KEYS_SIGNING_KEY")]
    try:
        return read_keys(folder) or [create_key(folder)]
    except OSError as error:
        raise SystemExit(
            f"a key cannot be written to {folder} ({error.strerror}): set FLOWS_HOME or "
            "FLOWS_KEYS_FOLDER to a writable folder"
        ) from error


def read_keys(folder: Path) -> list[SigningKey]:
    """Return the keys in the folder's files, oldest first; SystemExit as in `load_keys`."""
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix == ".pem")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SystemExit(f"{folder} cannot be read: {error.strerror}") from error
    return [_read_key(file) for file in files]


class KeyFolder:
    """Watches the key files while the gateway runs; unusable files change nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: object = None

    def changed(self) -> list[SigningKey]:
        """Return the keys if the files have changed since the last call, else an empty list.

        A file that is incomplete or cannot be read, or a missing folder, is logged: the gateway
        keeps its keys until all files are usable again.
        """
        try:
            seen = sorted(
                (file.name, status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode)
                for file in self._folder.glob("*.pem")
                if (status := file.stat())
            )
            if seen == self._seen:
                return []
            self._seen = seen  # log a bad file once, not every second
            found = read_keys(self._folder)
        except (SystemExit, OSError) as refusal:
            logger.error("the keys stay as they are: %s", refusal)
            return []
        if not found:
            logger.error("the keys stay as they are: there are none in %s", self._folder)
        return found


def create_key(folder: Path) -> SigningKey:
    """Create a key and write its file atomically."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    pem = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file = folder / f"signing-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.pem"
    # Write a temporary file and rename it, so that readers see a complete key or none.
    handle, name = tempfile.mkstemp(dir=folder)
    with os.fdopen(handle, "wb") as partial:
        partial.write(pem)
        partial.flush()
        os.fsync(partial.fileno())
    Path(name).replace(file)
    return _read_key(file)


def _read_key(file: Path) -> SigningKey:
    try:
        if file.stat().st_mode & 0o077:
            raise SystemExit(f"{file} can be read by others: chmod 600 it")
        return _parse(file.read_bytes(), str(file))
    except OSError as error:
        raise SystemExit(f"{file} cannot be read: {error.strerror}") from error


# Files are read every second, and parsing a private key takes 50 ms during which every request
# would wait. Hence the cache, keyed by the file's content.
@lru_cache(maxsize=16)
def _parse(pem: bytes, source: str) -> SigningKey:
    try:
        private = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise SystemExit(f"{source} cannot be read as a private key: {error}") from error
    if not isinstance(private, rsa.RSAPrivateKey) or private.key_size < RSA_BITS:
        raise SystemExit(f"{source} does not contain an RSA key of {RSA_BITS} bits or more")
    jwk: dict[str, Any] = RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
    kid = _thumbprint(jwk)
    public = {name: jwk[name] for name in ("kty", "n", "e")}
    return SigningKey(kid, private, public | {"kid": kid, "use": "sig", "alg": ALGORITHM})


def _thumbprint(jwk: dict[str, Any]) -> str:
    """Return the RFC 7638 thumbprint of an RSA key."""
    members = {name: jwk[name] for name in ("e", "kty", "n")}
    text = json.dumps(members, separators=(",", ":"), sort_keys=True)
    digest = hashlib.sha256(text.encode()).digest()
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


def read_public_key(kid: str, jwk: Any) -> rsa.RSAPublicKey | None:
    """Return a published key, or None if its row is damaged: it is not the key that `kid` names."""
    try:
        if _thumbprint(jwk) != kid:
            return None
        key = RSAAlgorithm.from_jwk(jwk)
    except (InvalidKeyError, KeyError, TypeError, ValueError):
        return None
    return key if isinstance(key, rsa.RSAPublicKey) else None
