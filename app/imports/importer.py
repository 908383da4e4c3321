"""Running of imports: a process for each, fair between ESCOs, and its state kept up to date."""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout

from app.db.principal import Principal
from app.db.session import Pool, database_url
from app.errors import TooManyRequests, Unavailable
from app.imports.queue import FairQueue, QueueFull
from app.imports.records import fail_import, keep_imports, start_import
from app.imports.worker import TOO_LARGE, WorkerJob
from app.settings import Settings

logger = logging.getLogger(__name__)

BEAT_SECONDS = 2.0
RETRY_SECONDS = 10
EXPANSION = 16  # a compressed file may be so many times as large as the largest file
STOPPED = "The gateway was stopped, so nothing was written; send the file again."
DATABASE_ERRORS = (psycopg.Error, PoolTimeout, PoolClosed)


@dataclass(slots=True)
class ImportRun:
    """An attempt at an import; `file` is a descriptor of a temporary file without a name."""

    import_id: UUID
    run: UUID
    caller: Principal
    file: int
    options: dict[str, Any]
    rows: int = 0


class Importer:
    """The imports of one gateway process. `pool` is for their state alone."""

    def __init__(self, settings: Settings, pool: Pool) -> None:
        self._settings = settings
        self._pool = pool
        limits = settings.imports
        self._queue = FairQueue(limits.running, limits.waiting_of_esco, limits.waiting)
        self._runs: dict[UUID, ImportRun] = {}
        self._beat: asyncio.Task[None] | None = None

    @contextmanager
    def room(self, caller: Principal) -> Iterator[None]:
        """Hold room for one import of the caller's ESCO; TooManyRequests or Unavailable if none."""
        try:
            with self._queue.reserved(caller.tenant):
                yield
        except QueueFull as full:
            if full.of_key:
                raise TooManyRequests(
                    "Imports of your ESCO are waiting; send the next when one of them has ended.",
                    retry_after=RETRY_SECONDS,
                ) from None
            raise Unavailable(
                "Too many imports are waiting right now.", retry_after=RETRY_SECONDS
            ) from None

    def submit(self, run: ImportRun) -> None:
        """Run an import when it is its ESCO's turn; its file is closed at the end."""
        self._runs[run.run] = run
        self._beat = self._beat or asyncio.create_task(self._tell())
        self._queue.put(run.caller.tenant, lambda: self._run(run))

    async def close(self) -> None:
        """End the imports: those that run write nothing."""
        await self._queue.close()
        if self._beat is not None:
            self._beat.cancel()
            with suppress(asyncio.CancelledError):
                await self._beat
        for run in list(self._runs.values()):
            await self._fail(run, STOPPED)

    async def _tell(self) -> None:
        """Tell the database, every few seconds, that the imports of this process are alive."""
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            if self._runs:
                try:
                    await keep_imports(self._pool, {run.run: run.rows for run in self.runs})
                except DATABASE_ERRORS as error:
                    logger.warning("the state of imports cannot be written: %s", error)

    @property
    def runs(self) -> list[ImportRun]:
        """The imports that wait or run."""
        return list(self._runs.values())

    async def _run(self, run: ImportRun) -> None:
        try:
            if await start_import(self._pool, run.import_id, run.run):
                error = await self._work(run)
                if error is not None:
                    await self._fail(run, error)
            self._forget(run)
        except DATABASE_ERRORS as error:
            # Nobody can be told now: without a sign of life it counts as failed after a minute.
            logger.error("import %s: its state cannot be written: %s", run.import_id, error)
            self._forget(run)

    async def _fail(self, run: ImportRun, error: str) -> None:
        with suppress(*DATABASE_ERRORS):
            await fail_import(self._pool, run.run, run.rows, error.replace("\0", "\ufffd"))
        self._forget(run)

    def _forget(self, run: ImportRun) -> None:
        if self._runs.pop(run.run, None) is not None:
            os.close(run.file)

    async def _work(self, run: ImportRun) -> str | None:
        """Run the import in a process; return the reason if it failed and has not noted it."""
        limits = self._settings.imports
        job = WorkerJob(
            database_url=database_url(self._settings.database),
            role=run.caller.role,
            claims=run.caller.claims,
            run=str(run.run),
            file=run.file,
            options=run.options,
            largest_bytes=limits.max_file_bytes * EXPANSION,
            seconds=limits.seconds,
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "app.imports.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(run.file,),
            # To tell where memory ended takes memory: it would wait for itself.
            env=os.environ | {"POLARS_MAX_THREADS": "2", "RUST_BACKTRACE": "0"},
        )  # fmt: skip
        try:
            async with asyncio.timeout(limits.seconds):
                return await _follow(process, job, run)
        except TimeoutError:
            return f"the import took longer than {limits.seconds:.0f} seconds; send it in parts"
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()


async def _follow(
    process: asyncio.subprocess.Process, job: WorkerJob, run: ImportRun
) -> str | None:
    """Give the process its job and read its lines; return the error it tells of."""
    assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018
    with suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(job.to_json())
        await process.stdin.drain()
        process.stdin.close()
    error: str | None = None
    async for line in process.stdout:
        told = json.loads(line)
        run.rows = told.get("rows", run.rows)
        error = told.get("error", error)
    if await process.wait():
        logger.error("import %s: its process ended with %s", run.import_id, process.returncode)
        if process.returncode == -signal.SIGABRT:
            return error or TOO_LARGE  # of what is not Python, which ends at once
        return error or "the import ended unexpectedly, so nothing was written"
    return error
