"""Certificates that servers show."""

import socket
import ssl
from datetime import UTC, datetime

HANDSHAKE_SECONDS = 5.0


def certificate_end(host: str, port: int) -> datetime:
    """Return the end of the certificate that a server shows; OSError if it is not trusted."""
    with (
        socket.create_connection((host, port), timeout=HANDSHAKE_SECONDS) as plain,
        ssl.create_default_context().wrap_socket(plain, server_hostname=host) as secured,
    ):
        shown = secured.getpeercert() or {}
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(shown["notAfter"])), UTC)
