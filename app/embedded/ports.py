"""Ports for servers of the embedded stack."""

import secrets
import socket

# Below those that systems give to connections of clients, of which one could take the port before
# the server that it is for has started.
SERVER_PORTS = range(15_000, 32_000)
MOST_PORTS = 100


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free right now; OSError if hardly any is."""
    for tried in range(MOST_PORTS):
        port = secrets.choice(SERVER_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                if tried == MOST_PORTS - 1:
                    raise
            else:
                break
    return port
