"""Tokens by client credentials (RFC 6749, 4.4), for httpx."""

import time
from collections.abc import Generator

import httpx

from flows_client.errors import checked

# A token is renewed before it expires, as a request takes time and clocks differ.
EARLY_SECONDS = 60


class ClientCredentials(httpx.Auth):
    """Adds a bearer token to requests, and asks for another in time or when one is refused.

    It fits `httpx.Client` and `httpx.AsyncClient`. `scope` narrows what the token may do.
    """

    requires_response_body = True

    def __init__(
        self, url: str, client_id: str, client_secret: str, *, scope: str | None = None
    ) -> None:
        self._url = url.rstrip("/") + "/auth/token"
        self._form = {
            "grant_type": "client_credentials",
            "client_id": client_id,
            "client_secret": client_secret,
        }
        if scope is not None:
            self._form["scope"] = scope
        self._token = ""
        self._until = 0.0

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Yield the request with a token, after a request for the token if there is none."""
        fresh = time.monotonic() >= self._until
        if fresh:
            yield from self._renew()
        request.headers["Authorization"] = f"Bearer {self._token}"
        answer = yield request
        # A key may be withdrawn, or a token revoked, before its time.
        if answer.status_code == httpx.codes.UNAUTHORIZED and not fresh:
            yield from self._renew()
            request.headers["Authorization"] = f"Bearer {self._token}"
            yield request

    def _renew(self) -> Generator[httpx.Request, httpx.Response, None]:
        answer = checked((yield httpx.Request("POST", self._url, data=self._form)))
        found = answer.json()
        self._token = found["access_token"]
        self._until = time.monotonic() + found["expires_in"] - EARLY_SECONDS
