"""PostgreSQL servers of a test, configured by postgresql.conf, and TLS in front of them."""

import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import psycopg
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.embedded.ports import free_port
from app.embedded.process import Child
from app.embedded.programs import binaries, run_program, system_user
from tests.commands import run_command

PASSWORD = "a-password-of-this-test"
SSL_REQUEST = (80877103).to_bytes(4, "big")


@dataclass(frozen=True)
class Server:
    """A running server, which listens on 127.0.0.1 without TLS; its superuser is `postgres`."""

    data: Path
    port: int
    user: str | None

    def url(self, user: str = "postgres", database: str = "flows", query: str = "") -> str:
        """Return a libpq URL of a login with the test's password."""
        return f"postgresql://{user}:{PASSWORD}@127.0.0.1:{self.port}/{database}{query}"


@contextmanager
def postgres_server(
    folder: Path,
    *,
    settings: str = "",
    initdb: tuple[str, ...] = ("--locale=C.UTF-8",),
    owned: tuple[Path, ...] = (),
) -> Iterator[Server]:
    """Run a server in `folder`, with lines of `settings` appended to its postgresql.conf.

    Nothing on its command line says how it is configured. It has an empty database `flows`; the
    folders in `owned` are its user's.
    """
    user, port = system_user(), free_port()
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "data"
    secret = folder / "password"
    secret.write_text(PASSWORD)
    if user:
        for given in (folder, secret, *owned):
            shutil.chown(given, user, user)
    run_program("initdb", "-D", str(data), "-U", "postgres", "--auth=scram-sha-256", "-E", "UTF8",
                f"--pwfile={secret}", *initdb, user=user)  # fmt: skip
    libraries = "pg_stat_statements"
    if list((binaries().parent / "lib").glob("timescaledb-*.so")):
        libraries += ",timescaledb"
    with (data / "postgresql.conf").open("a") as written:
        written.write(
            f"port = {port}\nlisten_addresses = '127.0.0.1'\nfsync = off\n"
            f"unix_socket_directories = '{folder}'\nshared_preload_libraries = '{libraries}'\n"
            "max_locks_per_transaction = 256\ntimescaledb.telemetry_level = off\n" + settings
        )
    server = Server(data, port, user)
    command = [str(binaries() / "postgres"), "-D", str(data)]
    child = Child("PostgreSQL", command, log=folder / "log", user=user, stop_signal="SIGINT")
    try:
        child.wait_until(lambda: _answers(server.url(database="postgres")), seconds=60)
        with psycopg.connect(server.url(database="postgres"), autocommit=True) as admin:
            admin.execute("set default_transaction_read_only = off")
            admin.execute("create database flows")
        yield server
    finally:
        child.stop()


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


@contextmanager
def enterable_folder() -> Iterator[Path]:
    """Yield a folder that PostgreSQL's own user can enter, as it cannot enter pytest's."""
    with tempfile.TemporaryDirectory(prefix="flows-test-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


@contextmanager
def tls_in_front(port: int, folder: Path) -> Iterator[tuple[int, Path]]:
    """Yield the port of a server that speaks PostgreSQL's TLS, and its certificate authority.

    It relays to the server on `port`, as the wheel's PostgreSQL is built without TLS. Certificates
    that are written to `folder` anew hold for new connections.
    """
    authority, certificate = write_certificates(folder)
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as connections:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    threading.Thread(target=serve_client, args=(client,), daemon=True).start()

        def serve_client(client: socket.socket) -> None:
            with suppress(OSError, ssl.SSLError):
                if client.recv(8)[4:] != SSL_REQUEST:
                    client.close()  # a client that does not ask for TLS is turned away
                    return
                client.sendall(b"S")
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(certificate)
                secured = context.wrap_socket(client, server_side=True)
                server = connections.enter_context(socket.create_connection(("127.0.0.1", port)))
                connections.enter_context(secured)
                threading.Thread(target=relay, args=(secured, server), daemon=True).start()
                relay(server, secured)

        def relay(source: socket.socket, target: socket.socket) -> None:
            with suppress(OSError, ValueError):
                while data := source.recv(65536):
                    target.sendall(data)
            for end in (source, target):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1], authority


def write_certificates(folder: Path) -> tuple[Path, Path]:
    """Write an authority's certificate, and a key with its certificate for 127.0.0.1."""
    now = datetime.now(UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    issuer = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, f"authority {os.urandom(4).hex()}")]
    )
    made = []
    for key, name in zip(keys, (issuer, x509.Name([])), strict=True):
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(name is issuer, None), critical=True)
        )
        if name is not issuer:
            address = x509.IPAddress(ip_address("127.0.0.1"))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=True)
        certificate = builder.sign(keys[0], hashes.SHA256())
        made.append(certificate.public_bytes(serialization.Encoding.PEM))
    secret = keys[1].private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    authority, server = folder / "authority.pem", folder / "server.pem"
    authority.write_bytes(made[0])
    server.write_bytes(secret + made[1])
    return authority, server


def run_flows(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a `flows` command with FLOWS_… settings; the caller looks at its exit code."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLOWS_")}
    if given := os.environ.get("FLOWS_POSTGRES_BIN"):
        inherited["FLOWS_POSTGRES_BIN"] = given
    return run_command(words, inherited | settings)


def write_program(path: Path, script: str) -> None:
    """Write a shell script that can be run, and the folder that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
