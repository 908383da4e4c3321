"""No secret, token or private key is in any log, even at the most verbose log levels."""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest

from app.auth.exchange import ID_TOKEN_TYPE, TOKEN_EXCHANGE
from app.db.migrate import migrate
from app.embedded.ports import free_port
from app.embedded.postgrest import CONFIG, find_postgrest
from tests.auth.issuer_server import AUDIENCE, running_issuer
from tests.auth.test_clients import RIGHTS, ask, bearer, make
from tests.conftest import Stack, answers, flows, gateway_environment, running_stack, wait_until

# The gateway's command with every logger at its most verbose level.
TALKATIVE = """
import logging, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
from app.cli.__main__ import main
import app.http.server
quiet = app.http.server.log_to_stderr
def loud():
    quiet()
    logging.getLogger().setLevel(logging.DEBUG)
app.http.server.log_to_stderr = loud
sys.argv = ["flows", "serve"]
main()
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose gateway, PostgREST and database log as much as they can."""
    with running_stack() as stack:
        with psycopg.connect(stack.contract["database_url"], autocommit=True) as admin:
            admin.execute("alter system set log_statement = 'all'")
            admin.execute("alter system set log_min_duration_statement = 0")
            admin.execute("alter system set log_min_messages = 'debug1'")
            admin.execute("alter system set log_connections = on")
            admin.execute("select pg_reload_conf()")
        environment = gateway_environment(stack)
        below = stack.home / "logs"
        ports = free_port(), free_port()
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        passwords = json.loads((stack.home / "passwords.json").read_text())
        socket = environment["FLOWS_DATABASE_URL"].partition("@")[2]
        postgrest = {
            "PATH": os.environ["PATH"], "PGRST_SERVER_HOST": "127.0.0.1",
            "PGRST_SERVER_PORT": str(ports[1]), "PGRST_LOG_LEVEL": "info",
            "PGRST_DB_URI": f"postgresql://authenticator:{passwords['authenticator']}@{socket}",
        }  # fmt: skip
        gateway = environment | {
            "FLOWS_PORT": str(ports[0]), "FLOWS_POSTGREST_URL": urls[1],
            "FLOWS_ISSUERS_PRIVATE_NETWORKS": "127.0.0.1/32",
        }  # fmt: skip
        commands = [
            ([sys.executable, "-X", "dev", "-c", TALKATIVE], gateway, "gateway-debug.log"),
            ([str(find_postgrest(stack.home)), str(CONFIG)], postgrest, "postgrest-debug.log"),
        ]
        processes = []
        for command, env, log in commands:
            with (below / log).open("wb") as output:
                process = subprocess.Popen(command, env=env, stdout=output, stderr=output)
                processes.append(process)
        try:
            wait_until(lambda: answers(f"{urls[0]}/ready", 200))
            wait_until(lambda: answers(urls[1]))
            contract = {"base_url": urls[0], "rest_url": f"{urls[0]}/rest/v1"}
            loud = stack.contract | contract | {"postgrest_url": urls[1]}
            yield replace(stack, contract=loud)
        finally:
            for process in processes:
                process.kill()
                process.wait()


def forms(secret: str) -> set[str]:
    """Return the ways a secret may be written: plain, URL-encoded, in Base64 at any offset."""
    encoded = {
        base64.b64encode(b"x" * before + secret.encode())[4:-4].decode() for before in (0, 1, 2)
    }
    return {secret, quote(secret, safe="")} | encoded


def test_no_log_has_a_secret_a_token_or_a_private_key(own: Stack) -> None:
    base = own.contract["base_url"]
    client = make(own, "x", "--esco", "wlce", *RIGHTS["all"])
    secrets = {client["client_secret"], "guessed-secret"}
    with bearer(own, client) as admin:
        token = admin.headers["authorization"].removeprefix("Bearer ")
        made = admin.post("/admin/clients", json={"name": "y", "scopes": ["read"]}).json()
        second = admin.post(f"/admin/clients/{made['id']}/secrets").json()
        secrets |= {token, made["client_secret"], second["client_secret"]}
        for door in ("rest_url", "postgrest_url"):
            url = f"{own.contract[door]}/escos"
            assert httpx.get(url, headers=admin.headers).status_code == 200
            for headers in ({"apikey": token}, {"authorization": f"Bearer {token}x"}):
                httpx.get(url, headers=headers)
        admin.get("/rest/v1/nowhere")
        admin.get("/v1/energy?period_from=2026-01-01T00:00Z&period_to=2026-01-02T00:00Z")
        admin.post("/admin/clients", json={"name": 5, "scopes": [made["client_secret"]]})
    by_form = {"client_id": client["id"], "client_secret": client["client_secret"]}
    grant = {"grant_type": "client_credentials"}
    secrets.add(httpx.post(f"{base}/auth/token", data=grant | by_form).json()["access_token"])
    ask(own, client["id"], "guessed-secret")
    # A secret in the URL is refused and must not be logged either.
    httpx.post(f"{base}/auth/token?client_secret={client['client_secret']}", data=grant)
    httpx.post(f"{base}/auth/introspect", data={"token": token} | by_form)
    lasting = flows(own, "token", "--esco", "wlce", "--name", "job", "--role", "flows").stdout
    secrets.add(lasting.strip())
    assert ask(own, made["id"], second["client_secret"]).status_code == 200
    rotated = flows(own, "client", "rotate-secret", made["id"], "--json").stdout
    secrets.add(json.loads(rotated)[0]["client_secret"])
    flows(own, "keys", "rotate", "--after", "10")
    secrets |= _signed_in(own)
    _set_passwords_again(own)
    httpx.post(f"{base}/auth/revoke", data={"token": token} | by_form)
    httpx.get(f"{own.contract['rest_url']}/escos", headers={"Authorization": f"Bearer {token}"})
    own_passwords = json.loads((own.home / "passwords.json").read_text())
    secrets |= {*own_passwords.values(), (own.home / "postgres.password").read_text().strip()}
    for file in (own.home / "keys").glob("*.pem"):
        secrets |= {line for line in file.read_text().splitlines() if not line.startswith("--")}
    for esco in own.contract["escos"].values():
        secrets |= {esco["client_secret"], esco["read_token"], esco["write_token"]}
    found = _found(own.home / "logs", secrets)
    assert not found, found


def _signed_in(own: Stack) -> set[str]:
    """Let a person who was invited sign in; return what nobody else may know of it."""
    address: dict[str, Any] = {"email": "ann@example.org", "email_verified": True}
    url = f"{own.contract['base_url']}/auth/token"
    with running_issuer() as issuer:
        who = ("--issuer", issuer.url, "--esco", "wlce", "--email", address["email"])
        flows(own, "issuer", "add", issuer.url, "--audience", AUDIENCE)
        (invited,) = json.loads(flows(own, "member", "add", "Ann", *who, "--json").stdout)
        form = {"grant_type": TOKEN_EXCHANGE, "subject_token_type": ID_TOKEN_TYPE} | _client_form(
            own
        )
        refused = issuer.token("eve", **address, aud="another")
        assert httpx.post(url, data=form | {"subject_token": refused}).status_code == 400
        subject_token = issuer.token("ann", **address)
        form |= {"subject_token": subject_token, "invitation": invited["invitation"]}
        token = httpx.post(url, data=form).raise_for_status().json()["access_token"]
        # The form in the URL is refused and must not be logged either.
        assert httpx.post(url, params=form, data=form).status_code == 400
    headers = {"Authorization": f"Bearer {token}"}
    for door in ("rest_url", "postgrest_url"):
        assert httpx.get(f"{own.contract[door]}/escos", headers=headers).status_code == 200
    return {refused, subject_token, token, invited["invitation"]}


def _client_form(own: Stack) -> dict[str, str]:
    """Return the form of the demo's client."""
    client = own.contract["escos"]["wlce"]
    return {name: client[name] for name in ("client_id", "client_secret")}


def _set_passwords_again(own: Stack) -> None:
    login = gateway_environment(own)["FLOWS_DATABASE_URL"]
    migrate(own.contract["database_url"], logins=(login,))


def _found(folder: Path, secrets: set[str]) -> list[str]:
    logs = {file.name: file.read_text(errors="replace") for file in folder.iterdir()}
    # Make sure that statements, requests and refusals were logged at all.
    assert "gateway.audit" in logs["postgres.log"]
    assert "GET /escos" in logs["postgrest-debug.log"]
    assert '"path":"/auth/token"' in logs["gateway-debug.log"]
    assert '"level":"debug"' in logs["gateway-debug.log"]
    written = {form for secret in secrets for form in forms(secret)}
    patterns = re.compile(r"fl[si]_[\w-]{20}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,}|PRIVATE KEY")
    return [
        f"{name}: …{text[max(0, at - 80) : at + 20]}"
        for name, text in logs.items()
        for at in [
            *(text.find(form) for form in written if len(form) > 10 and form in text),
            *(match.start() for match in patterns.finditer(text)),
        ]
    ]
