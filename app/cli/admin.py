"""Access as administrator: the database's URL, the tokens' issuer, and a transaction to work in."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psycopg
from psycopg.rows import dict_row

from app.cli.output import fail
from app.db.session import Connection
from app.embedded.postgres import EmbeddedPostgres
from app.errors import Problem
from app.settings import Settings

Result = TypeVar("Result")

NOT_MIGRATED = (
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.UndefinedTable,
)


def run_as_admin(work: Callable[[Connection], Awaitable[Result]]) -> Result:
    """Run `work` in a transaction as administrator; exit with a one-line error if it fails."""

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


@contextmanager
def database_errors(consequence: str = "") -> Iterator[None]:
    """Turn database errors into one-line errors that start with `consequence`."""
    try:
        yield
    except NOT_MIGRATED:
        raise fail(
            f"{consequence}this database has no Flows schema; run `flows db migrate` first"
        ) from None
    except psycopg.Error as error:
        reason = error.diag.message_primary or str(error).strip()
        raise fail(f"{consequence}{reason}") from None


def issuer(settings: Settings) -> str:
    """Return the gateway's address as issuer of tokens: from the environment or the stack."""
    demo = settings.home / "demo.json"
    if settings.public_url is None and demo.exists():
        url: str = json.loads(demo.read_text())["base_url"]
        return url
    return settings.base_url


def admin_url(settings: Settings) -> str:
    """Return the administrator's URL: from the environment, else of the stack in FLOWS_HOME."""
    if settings.database.admin_url:
        return settings.database.admin_url.get_secret_value()
    embedded = EmbeddedPostgres(settings.home.absolute())
    if embedded.password_file.exists():
        return embedded.admin_url
    raise fail("set FLOWS_DATABASE_ADMIN_URL to the URL of an administrator, or run `flows up`")
