"""The demo's clients and tokens, one pair per ESCO, made anew at each start."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psycopg

from app.auth.clients import create_client
from app.auth.keys import load_or_create
from app.auth.tokens import Grant, issue
from app.ops.maintain import follow
from app.runtime.demo import load_demo

DEMO_TOKEN_SECONDS = 7 * 24 * 3600

Step = Callable[[str], AbstractContextManager[None]]


def demo_escos(admin_url: str, home: Path, issuer: str, step: Step) -> dict[str, Any]:
    """Load the demo data; return code → id, client_id, client_secret, read_token, write_token."""
    with psycopg.connect(admin_url) as connection, step("loading demo data"):
        load_demo(connection)
        connection.commit()
        follow(admin_url)
    key = load_or_create(home / "keys")
    escos: dict[str, Any] = {}
    with psycopg.connect(admin_url) as connection, step("making clients and tokens"):
        for esco, code in connection.execute("select id, code from flows.escos order by code"):
            client_id = f"flc_demo_{code}"
            scopes = ["read", "write"]
            secret = create_client(
                connection, client_id=client_id, esco=str(esco), name=f"demo of {code}",
                role="flows", scopes=scopes,
            )  # fmt: skip

            def token(
                *asked: str, owner: Any = esco, code: str = code, client: str = client_id
            ) -> str:
                grant = Grant(client, "flows", owner, code, asked)
                return issue(key, issuer, grant, seconds=DEMO_TOKEN_SECONDS)

            escos[code] = {
                "id": str(esco),
                "client_id": client_id,
                "client_secret": secret,
                "read_token": token("read"),
                "write_token": token("read", "write"),
            }
    return escos
