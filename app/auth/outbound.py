"""Fetching a JSON document from an issuer, never from the networks around the gateway."""

import asyncio
import json
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

import httpx

LARGEST_DOCUMENT = 256 * 1024  # bytes
# The only addresses of version 6 on the public internet, and those that a router translates to
# version 4 (RFC 6052).
PUBLIC_V6 = ip_network("2000::/3")
TRANSLATED = ip_network("64:ff9b::/96")


class FetchError(Exception):
    """The document could not be fetched; the text says why."""


def is_public(address: str) -> bool:
    """Return whether an IP address is on the public internet, and the one within it if any."""
    known: IPv4Address | IPv6Address = ip_address(address)
    if isinstance(known, IPv6Address):
        within = known.ipv4_mapped or known.sixtofour
        if known in TRANSLATED:
            within = IPv4Address(int(known) & 0xFFFF_FFFF)
        if within is None and known not in PUBLIC_V6:
            return False
        known = within or known
    return known.is_global and not known.is_multicast


class Outbound:
    """Fetches documents with limits on time and size, and follows no redirect.

    Names are resolved here, and the connection is made to the very address that was checked, so
    that a name cannot lead elsewhere a moment later.
    """

    def __init__(self, http: httpx.AsyncClient, private: Sequence[str], seconds: float) -> None:
        self._http = http
        self._private = [ip_network(network) for network in private]
        self._seconds = seconds

    async def fetch(self, url: str) -> dict[str, Any]:
        """Return the JSON object at `url`; FetchError if there is none within the limits."""
        try:
            async with asyncio.timeout(self._seconds):
                body = await self._body(url)
        except TimeoutError:
            raise FetchError("it does not answer in time") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            raise FetchError(f"it cannot be reached ({type(error).__name__})") from None
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            raise FetchError("the answer is not JSON") from None
        if not isinstance(found, dict):
            raise FetchError("the answer is not a JSON object")
        return found

    async def _body(self, url: str) -> bytes:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise FetchError("its URL cannot be used")
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            raise FetchError("its URL cannot be used") from None
        address = await self._address(parts.hostname, port, parts.scheme)
        target = httpx.URL(url).copy_with(host=address)
        headers = {
            "Host": parts.netloc,
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        }
        extensions = {"sni_hostname": parts.hostname}
        async with self._http.stream(
            "GET", target, headers=headers, extensions=extensions, follow_redirects=False
        ) as answer:
            if answer.status_code != 200:
                raise FetchError(f"it answers {answer.status_code}")
            if answer.headers.get("content-encoding", "identity") != "identity":
                raise FetchError("the answer is compressed")
            body = b""
            async for piece in answer.aiter_raw():
                body += piece
                if len(body) > LARGEST_DOCUMENT:
                    raise FetchError("the answer is too large")
        return body

    async def _address(self, host: str, port: int, scheme: str) -> str:
        """Return an address of the host to which the gateway may connect."""
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )
        addresses = [str(entry[4][0]) for entry in found]
        # One forbidden address condemns the name: its owner chooses the order.
        for address in addresses:
            named = any(
                ip_address(address) in network
                for network in self._private
                if network.version == ip_address(address).version
            )
            if not named and (scheme != "https" or not is_public(address)):
                raise FetchError("its address is private, or it does not use https")
        return addresses[0]
