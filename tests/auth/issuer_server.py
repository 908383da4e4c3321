"""An OpenID provider for tests: a small HTTP server with keys of its own, which can misbehave."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
AUDIENCE = "app"


def public_jwk(kid: str, key: PrivateKey) -> dict[str, Any]:
    """Return the public JWK of a key."""
    public: Any = key.public_key()
    if isinstance(key, rsa.RSAPrivateKey):
        jwk = RSAAlgorithm.to_jwk(public, as_dict=True)
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        jwk = ECAlgorithm.to_jwk(public, as_dict=True)
    else:
        jwk = OKPAlgorithm.to_jwk(public, as_dict=True)
    return {**jwk, "kid": kid, "use": "sig"}


class TestIssuer:
    """The provider: `url`, its keys by kid, and the ways in which it misbehaves.

    `redirect` is where its keys are redirected to, `padding` bytes are sent along with them, with a
    `pause` in seconds before each 64 KiB, and `hold` makes it wait until the event is set.
    """

    __test__ = False

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.keys: dict[str, PrivateKey] = {
            "rsa": rsa.generate_private_key(public_exponent=65537, key_size=2048)
        }
        self.asked: list[str] = []
        self.discovered: dict[str, Any] = {}
        self.redirect: str | None = None
        self.padding = 0
        self.pause = 0.0
        self.sent = 0
        self.hold: threading.Event | None = None
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.answer(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer((address, 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://{address}:{self.server.server_port}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer a request."""
        self.asked.append(handler.path)
        if self.hold:
            self.hold.wait(60)
        if self.redirect and handler.path == "/jwks":
            handler.send_response(302)
            handler.send_header("Location", self.redirect)
            handler.end_headers()
            return
        body: dict[str, Any] = {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}
        body |= self.discovered
        if handler.path == "/jwks":
            body = {"keys": [public_jwk(kid, key) for kid, key in self.keys.items()]}
        handler.send_response(200)
        handler.end_headers()
        try:
            handler.wfile.write(b" ")
            for _ in range(self.padding // 65_536):
                time.sleep(self.pause)
                handler.wfile.write(b" " * 65_536)
                self.sent += 65_536
            handler.wfile.write(json.dumps(body).encode())
        except OSError:
            pass  # the gateway has had enough

    def claims(self, subject: str, **claims: Any) -> dict[str, Any]:
        """Return the claims of an ID token; a claim that is None is left out."""
        now = int(time.time())
        made = {"iss": self.url, "aud": AUDIENCE, "sub": subject, "iat": now, "exp": now + 300}
        return {name: value for name, value in (made | claims).items() if value is not None}

    def token(self, subject: str, kid: str = "rsa", algorithm: str = "RS256", **claims: Any) -> str:
        """Return an ID token, signed with a key of the provider."""
        return jwt.encode(
            self.claims(subject, **claims), self.keys[kid], algorithm, headers={"kid": kid}
        )


@contextmanager
def running_issuer(address: str = "127.0.0.1") -> Iterator[TestIssuer]:
    """Run a provider until the end of the block."""
    issuer = TestIssuer(address)
    thread = threading.Thread(target=issuer.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield issuer
    finally:
        if issuer.hold:
            issuer.hold.set()
        issuer.server.shutdown()
        issuer.server.server_close()
        thread.join()
