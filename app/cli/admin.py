"""The administrator's way in: the database's URL, the tokens' issuer, work in one transaction."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TypeVar

import psycopg
from psycopg.rows import dict_row

from app.cli.output import fail
from app.db.session import Connection
from app.embedded.postgres import EmbeddedPostgres
from app.errors import Problem
from app.settings import Settings

Result = TypeVar("Result")


def run_as_admin(work: Callable[[Connection], Awaitable[Result]]) -> Result:
    """Run work in one transaction as the administrator; its problems are one line."""

    async def connected() -> Result:
        url = admin_url(Settings())
        async with await psycopg.AsyncConnection.connect(url, row_factory=dict_row) as connection:
            return await work(connection)

    try:
        return asyncio.run(connected())
    except Problem as problem:
        raise fail(problem.detail or problem.title) from None
    except psycopg.Error as error:
        raise fail(str(error).strip()) from None


def issuer(settings: Settings) -> str:
    """The gateway's address as tokens name it: of the environment, else of the stack here."""
    demo = settings.home / "demo.json"
    if settings.public_url is None and demo.exists():
        url: str = json.loads(demo.read_text())["base_url"]
        return url
    return settings.base_url


def admin_url(settings: Settings) -> str:
    """The administrator's URL: from the environment, else of the embedded stack in FLOWS_HOME."""
    if settings.database.admin_url:
        return settings.database.admin_url.get_secret_value()
    embedded = EmbeddedPostgres(settings.home.absolute())
    if embedded.password_file.exists():
        return embedded.admin_url
    raise fail("set FLOWS_DATABASE_ADMIN_URL to an administrator's login, or run `flows up`")
