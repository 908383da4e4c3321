"""Loading of the demo data, and a client with tokens per ESCO, created at each start."""

import asyncio
import json
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from app.auth import clients
from app.auth.clients import COMMAND_LINE
from app.auth.keyring import Keyring, load_state
from app.auth.keys import load_keys
from app.auth.tokens import LIFETIME_SECONDS, Grant, issue
from app.db.maintain import follow
from app.db.session import Connection
from app.embedded.demo import RowProgress, load_demo
from app.errors import NotFound
from app.settings import LimitsSettings

DEMO_TOKEN_SECONDS = 7 * 24 * 3600
SCOPES = ["read", "write"]


def load_and_follow(admin_url: str, progress: RowProgress) -> None:
    """Load the demo data and update the aggregates."""
    with psycopg.connect(admin_url) as connection:
        load_demo(connection, progress)
    follow(admin_url)


def make_clients(admin_url: str, home: Path, issuer: str) -> dict[str, Any]:
    """Return code → id, client_id, client_secret, read_token, write_token of each ESCO.

    A secret in the demo.json of an earlier start is kept as long as it is valid.
    """
    return asyncio.run(_make_clients(admin_url, home, issuer))


def read_contract(home: Path) -> dict[str, Any]:
    """Return the content of demo.json; {} if there is none."""
    try:
        contract: dict[str, Any] = json.loads((home / "demo.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return contract


async def _make_clients(admin_url: str, home: Path, issuer: str) -> dict[str, Any]:
    keys = Keyring(load_keys(home / "keys"))
    earlier = read_contract(home).get("escos", {})
    escos: dict[str, Any] = {}
    async with await psycopg.AsyncConnection.connect(admin_url, row_factory=dict_row) as connection:
        keys.update(await load_state(connection))
        for esco in await clients.list_escos(connection):
            client_id = f"flc_demo_{esco['code']}"

            def token(*asked: str, client_id: str = client_id, esco: Any = esco) -> str:
                grant = Grant(client_id, "flows", esco["id"], esco["code"], asked)
                return issue(keys.current(), issuer, grant, seconds=DEMO_TOKEN_SECONDS)

            escos[esco["code"]] = {
                "id": str(esco["id"]),
                "client_id": client_id,
                "client_secret": await _secret(
                    connection, client_id, esco, earlier.get(esco["code"], {})
                ),
                "read_token": token("read"),
                "write_token": token("read", "write"),
            }
    return escos


async def _secret(
    connection: Connection, client_id: str, esco: dict[str, Any], earlier: dict[str, Any]
) -> str:
    """Return the secret of the ESCO's demo client, made at the first start; keep a valid one."""
    known = await clients.find_credentials(connection, client_id)
    secret = str(earlier.get("client_secret", ""))
    if clients.verify_secret(known, secret) or await clients.verify_old_secret(known, secret):
        return secret
    try:
        return await clients.add_secret(connection, COMMAND_LINE, client_id, replace_oldest=True)
    except NotFound:
        _, secret = await clients.create_client(
            connection, COMMAND_LINE, limits=LimitsSettings(),
            client_id=client_id, esco=esco["id"],
            name=f"demo of {esco['code']}", role="flows", scopes=SCOPES,
            lifetime_seconds=LIFETIME_SECONDS,
        )  # fmt: skip
        return secret
