"""The demo's people: accounts at its OpenID provider, and what they may do in which ESCO."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import dict_row

from app.auth.apps import create_app_client, list_apps, set_app_disabled
from app.auth.clients import COMMAND_LINE, find_esco
from app.auth.issuers import add_issuer, list_issuers, remove_issuer
from app.auth.members import RESIDENT_SCOPES, Stay, add_member
from app.db.session import Connection
from app.embedded.demo import home_id
from app.errors import Conflict
from app.settings import LimitsSettings

APP_NAME = "Pages of the demo"
CLIENT_ID = "flows-demo"  # of pages in browsers, at the provider
SERVER_CLIENT_ID = "flows-demo-server"  # of a server that keeps sessions
# Subject → name, what the provider's page says of it, and the scopes in each ESCO.
PEOPLE: dict[str, tuple[str, str, dict[str, list[str]]]] = {
    "ann": ("Ann", "Admin of Water Lilies Energy", {"wlce": ["read", "write", "admin"]}),
    "ben": (
        "Ben",
        "Reads Water Lilies Energy, and writes for Hazelmead Energy",
        {"wlce": ["read"], "hmce": ["read", "write"]},
    ),
}
# Subject → name, what the page says, the ESCO and the number of the home. They have lived there
# since the month before this one began, so that the data has days that they do not see.
RESIDENTS: dict[str, tuple[str, str, str, int]] = {
    "rae": ("Rae", "Lives in plot 3 of Water Lilies Energy", "wlce", 3),
}


def accounts() -> list[dict[str, str]]:
    """Return the provider's accounts, without passwords."""
    return [
        {"sub": subject, "name": name, "email": f"{subject}@example.org", "about": about}
        for subject, (name, about, *_) in (PEOPLE | RESIDENTS).items()
    ]


def prepare_app(admin_url: str, origins: Sequence[str]) -> str:
    """Return the id of the demo's app with exactly these origins; disable those with others."""
    return asyncio.run(_prepare_app(admin_url, origins))


def register_people(admin_url: str, issuer: str) -> dict[str, Any]:
    """Trust the demo's provider alone of those before it, and add its people as members.

    Return `people`, subject → ESCO → scopes, and `residents`, subject → ESCO → property.
    """
    asyncio.run(_register_people(admin_url, issuer))
    return {
        "people": {subject: escos for subject, (_, _, escos) in PEOPLE.items()},
        "residents": {
            subject: {code: str(home_id(code, number))}
            for subject, (_, _, code, number) in RESIDENTS.items()
        },
    }


async def _connect(admin_url: str) -> Connection:
    return await psycopg.AsyncConnection.connect(admin_url, row_factory=dict_row)


async def _prepare_app(admin_url: str, origins: Sequence[str]) -> str:
    async with await _connect(admin_url) as connection:
        for app in await list_apps(connection):
            if app["name"] != APP_NAME or app["disabled_at"]:
                continue
            if app["origins"] == list(origins):
                return str(app["id"])
            await set_app_disabled(connection, COMMAND_LINE, app["id"], disabled=True)
        made = await create_app_client(
            connection, COMMAND_LINE, APP_NAME, origins, limits=LimitsSettings()
        )
    return str(made["id"])


async def _register_people(admin_url: str, issuer: str) -> None:
    async with await _connect(admin_url) as connection:
        known = {row["url"]: row for row in await list_issuers(connection, COMMAND_LINE)}
        for url, row in known.items():
            # Of an earlier start, whose port somebody else may have now.
            if url != issuer and SERVER_CLIENT_ID in row["audiences"]:
                await remove_issuer(connection, COMMAND_LINE, url)
        if issuer not in known:
            await add_issuer(
                connection, COMMAND_LINE, issuer, audiences=[CLIENT_ID, SERVER_CLIENT_ID]
            )
        added: list[tuple[str, str, str, list[str], list[Stay] | None]] = [
            (subject, name, code, scopes, None)
            for subject, (name, _, escos) in PEOPLE.items()
            for code, scopes in escos.items()
        ]
        since = month_before(datetime.now(UTC))
        added += [
            (subject, name, code, RESIDENT_SCOPES, [Stay(home_id(code, number), since)])
            for subject, (name, _, code, number) in RESIDENTS.items()
        ]
        for subject, name, code, scopes, residences in added:
            esco = await find_esco(connection, code)
            with suppress(Conflict):
                async with connection.transaction():
                    await add_member(
                        connection, COMMAND_LINE, limits=LimitsSettings(),
                        issuer_url=issuer, esco=esco["id"], name=name, scopes=scopes,
                        subject=subject, residences=residences,
                    )  # fmt: skip


def month_before(now: datetime) -> datetime:
    """Return the beginning of the month before that of `now`, in UTC."""
    last = now.astimezone(UTC).replace(day=1) - timedelta(days=1)
    return last.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
