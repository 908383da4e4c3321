"""Migration of a database to the schema in sql/, and passwords of the login roles.

sql/migrations contains the objects that keep data: each file is applied once, in a transaction of
its own, and never edited afterwards. sql/objects contains the objects that can be replaced: when
their text has changed, all of them are applied again in one transaction. The reasons are in
docs/adr/0001-schema-upgrades.md.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.json import Jsonb

from app import __version__
from app.db.baseline import BASELINE, missing_from
from app.db.drift import compare, read_objects
from app.db.exposed import expose_schemas
from app.db.logins import set_password
from app.db.schema import SQL, Migration, SqlFile, checksum, migrations, objects

LOCK = 7_366_201  # an arbitrary number; the advisory lock keeps migrations apart
LOCK_TIMEOUT = "800ms"  # less than PostgreSQL's deadlock_timeout
BUSY_SECONDS = 300.0
PAUSE_SECONDS = 1.0

AdminConnection = psycopg.Connection[tuple[Any, ...]]
StepProgress = Callable[[str], None]

# Created after the first migration, which creates their schema.
RECORDS = """
    create table if not exists gateway.schema_migration (
        version integer primary key,
        name text not null,
        sha256 text not null,
        oldest_gateway integer not null,
        program text not null,
        applied_at timestamptz not null default now()
    );
    create table if not exists gateway.schema_objects (
        only_row boolean primary key default true check (only_row),
        version integer not null,
        sha256 text not null,
        program text not null,
        applied_at timestamptz not null default now()
    );
    alter table gateway.schema_objects
    add column if not exists recorded jsonb not null default '[]';
"""
SCHEMA_STATE = """
    select
        to_regclass('gateway.schema_migration') is not null as ours,
        to_regclass('public.schema_migrations') is not null as of_dbmate,
        exists (select from pg_namespace where nspname = 'flows') as filled
"""
ROUTINES = """
    select p.oid, p.ctid::text from pg_proc as p
    where p.pronamespace = any(array['flows', 'api', 'gateway']::regnamespace[])
        and not exists (
            select from pg_depend as d
            where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
        )
"""


class MigrationError(Exception):
    """The database cannot be migrated; the message is for the user."""


def migrate(
    admin_url: str,
    *,
    logins: tuple[str, ...] = (),
    schemas: tuple[str, ...] = (),
    folder: Path = SQL,
    progress: StepProgress = lambda line: None,
) -> str:
    """Bring the database up to date and return its engine, `timescale` or `postgres`.

    `logins` are the URLs of the login roles (gateway, PostgREST); each role gets the password in
    its URL. `schemas` are exposed beside ours, and no others. `progress` is called with a line for
    each step. It is safe to repeat, and continues an interrupted migration. MigrationError if the
    database cannot be migrated, SchemaRefused if a schema cannot be exposed.
    """
    with psycopg.connect(admin_url, autocommit=True) as connection:
        # If this process is killed, the server ends its statement and releases its lock.
        connection.execute("set client_connection_check_interval = '1s'")
        _lock(connection, progress)
        engine = _choose_engine(connection)
        _upgrade(connection, engine, folder, progress)
        for login in logins:
            _set_password(connection, login)
        expose_schemas(connection, schemas)
        connection.execute("notify pgrst, 'reload config'")
        connection.execute("notify pgrst, 'reload schema'")
    return engine


def _lock(connection: AdminConnection, progress: StepProgress) -> None:
    if not _one(connection, "select pg_try_advisory_lock(%s)", LOCK)[0]:
        progress("waiting for another `flows db migrate` to end")
        connection.execute("select pg_advisory_lock(%s)", (LOCK,))


def _choose_engine(connection: AdminConnection) -> str:
    """Return the engine that a database already has; for a new one TimescaleDB if installed."""
    installed, migrated, preloaded = _one(
        connection,
        "select exists (select from pg_extension where extname = 'timescaledb') as installed,"
        " exists (select from pg_namespace where nspname = 'flows') as migrated,"
        " current_setting('shared_preload_libraries') ~ 'timescaledb' as preloaded",
    )
    if not installed and not migrated and preloaded:
        connection.execute("create extension if not exists timescaledb")
        installed = True
    return "timescale" if installed else "postgres"


def _upgrade(
    connection: AdminConnection, engine: str, folder: Path, progress: StepProgress
) -> None:
    files = migrations(engine, folder)
    ours, of_dbmate, filled = _one(connection, SCHEMA_STATE)
    if not ours and of_dbmate and filled:
        _adopt(connection, engine, [file for file in files if file.version <= BASELINE], progress)
    elif not ours and filled:
        raise MigrationError(
            "there is a schema flows that was not created by `flows db migrate`; use an empty "
            "database, and `flows db copy` for the rows"
        )
    applied: dict[int, tuple[str, str]] = {}
    if ours or of_dbmate:
        rows = connection.execute("select version, name, sha256 from gateway.schema_migration")
        applied = {row[0]: (row[1], row[2]) for row in rows}
    _compare(files, applied)
    replaceable = objects(engine, folder)
    for file in files:
        if file.version not in applied:
            progress(f"applying {file.name}")
            _patiently(
                connection,
                lambda file=file: _apply(connection, file, replaceable[0]),  # type: ignore[misc]
            )
    _apply_objects(connection, replaceable, files[-1].version, progress)
    _mend_overlaps(connection, progress)


def _compare(files: list[Migration], applied: dict[int, tuple[str, str]]) -> None:
    """Raise MigrationError for an edited file, or for a database newer than the program."""
    known = {file.version: file for file in files}
    if unknown := [name for number, (name, _) in sorted(applied.items()) if number not in known]:
        raise MigrationError(
            f"the database is newer than this program: its schema has version {max(applied)}, "
            f"this program has {max(known)} ({', '.join(unknown)}); install the newer program"
        )
    for number, (name, checked) in sorted(applied.items()):
        if known[number].sha256 != checked:
            raise MigrationError(
                f"sql/migrations/{known[number].name} was edited after it was applied (as {name}): "
                "restore it and put the change into a new file"
            )
    if late := [file.name for file in files if file.version not in applied]:
        first = next(file.version for file in files if file.version not in applied)
        if applied and first < max(applied):
            raise MigrationError(
                f"sql/migrations/{late[0]} comes before {applied[max(applied)][0]}, which is "
                "applied already: give it the next number"
            )


def _adopt(
    connection: AdminConnection, engine: str, baseline: list[Migration], progress: StepProgress
) -> None:
    """Record the first migrations as applied to a database of 0.1, which dbmate created."""
    progress("comparing this database of 0.1 with the baseline")
    if missing := missing_from(connection, engine):
        raise MigrationError(
            f"this database was created by an earlier state of 0.1 and lacks {len(missing)} of its "
            "parts, so it cannot be upgraded. Create a new one with `flows db migrate` and copy "
            "the rows with `flows db copy`. It lacks:\n  " + "\n  ".join(missing)
        )
    with connection.transaction():
        for file in baseline:
            _record(connection, file)
        connection.execute("drop table public.schema_migrations")


def _apply(connection: AdminConnection, file: Migration, reset: SqlFile) -> None:
    if file.commits:
        connection.execute("set role flows_owner")
        try:
            _run(connection, file)
        finally:
            connection.execute("reset role")
        with connection.transaction():
            _record(connection, file)
        return
    try:
        with connection.transaction():
            _run(connection, file)
            _record(connection, file)
    except MigrationError as error:
        if not isinstance(error.__cause__, psycopg.errors.DependentObjectsStillExist):
            raise
        # Views need what the file drops: they go first, and come back with the objects.
        with connection.transaction():
            _run(connection, reset)
            _run(connection, file)
            _record(connection, file)


def _record(connection: AdminConnection, file: Migration) -> None:
    connection.execute("set local role flows_owner")
    connection.execute(RECORDS)
    connection.execute(
        "insert into gateway.schema_migration (version, name, sha256, oldest_gateway, program)"
        " values (%s, %s, %s, %s, %s)",
        (file.version, file.name, file.sha256, file.oldest_gateway, __version__),
    )
    connection.execute("reset role")


def _apply_objects(
    connection: AdminConnection, files: list[SqlFile], schema_version: int, progress: StepProgress
) -> None:
    """Apply sql/objects if its text, the schema's version, or an object itself has changed."""
    with connection.transaction():
        connection.execute("set local role flows_owner")
        connection.execute("set local client_min_messages = 'warning'")
        connection.execute(RECORDS)
    row = connection.execute(
        "select version, sha256, program, recorded from gateway.schema_objects"
    ).fetchone()
    checked, program = checksum(files), __version__
    if row is not None and row[:2] == (schema_version, checked):
        changed = [
            one for one in compare(row[3], read_objects(connection)) if one.mended_by_migrate
        ]
        if not changed:
            return
        for one in changed:
            progress(f"{one.kind} {one.name}: {one.change}")
    if row is not None and _numbers(row[2]) > _numbers(program):
        raise MigrationError(
            f"the database is newer than this program: it was migrated by Flows {row[2]}, this is "
            f"{program}; install the newer program"
        )
    progress("applying sql/objects")

    def replace(*, keep_routines: bool) -> None:
        with connection.transaction():
            _replace(connection, files, keep_routines=keep_routines)
            recorded = Jsonb(read_objects(connection))
            connection.execute("set local role flows_owner")
            connection.execute("delete from gateway.schema_objects")
            connection.execute(
                "insert into gateway.schema_objects (version, sha256, program, recorded)"
                " values (%s, %s, %s, %s)",
                (schema_version, checked, program, recorded),
            )
            connection.execute("reset role")

    try:
        _patiently(connection, lambda: replace(keep_routines=True))
    except psycopg.errors.InvalidFunctionDefinition:
        # The return type or the argument names of a function have changed.
        _patiently(connection, lambda: replace(keep_routines=False))


def _mend_overlaps(connection: AdminConnection, progress: StepProgress) -> None:
    """End mappings that overlap others, a hundred registers at a time; `flows doctor` names them.

    That a register is on a circuit twice is refused since; the aggregates must be able to rely on
    it.
    """
    mended = 0
    found = True

    def mend() -> None:
        nonlocal mended, found
        with connection.transaction():
            connection.execute("set local role flows_owner")
            count = connection.execute("select from flows.mend_overlaps()").rowcount
        mended, found = mended + count, count > 0

    while found:
        _patiently(connection, mend)
    if mended:
        progress(f"mended {mended} mappings that overlapped: `flows doctor` names them")


def _replace(connection: AdminConnection, files: list[SqlFile], *, keep_routines: bool) -> None:
    """Drop the objects that the files created last time, and create those they contain now.

    Routines are replaced in place, so that running calls still find them; those that no file
    creates any more are dropped. Without `keep_routines`, routines are dropped first, except those
    that other objects depend on.
    """
    reset, *others = files
    _run(connection, reset)
    if not keep_routines:
        _drop_routines(connection)
    before = set(connection.execute(ROUTINES).fetchall())
    for file in others:
        _run(connection, file)
    # A routine whose catalogue row is unchanged was not created again by any file.
    gone = [oid for oid, place in connection.execute(ROUTINES).fetchall() if (oid, place) in before]
    if gone:
        names = connection.execute(
            "select string_agg(oid::regprocedure::text, ', ') from unnest(%s::oid[]) as oid",
            (gone,),
        ).fetchone()
        assert names is not None  # noqa: S101  (an aggregate returns exactly one row)
        connection.execute(b"drop routine " + names[0].encode())


def _drop_routines(connection: AdminConnection) -> None:
    left = [oid for oid, _ in connection.execute(ROUTINES).fetchall()]
    while left:
        needed = []
        for oid in left:
            (name,) = _one(connection, "select %s::oid::regprocedure::text", oid)
            try:
                with connection.transaction():
                    connection.execute(b"drop routine " + name.encode())
            except psycopg.errors.DependentObjectsStillExist:
                needed.append(oid)
        if len(needed) == len(left):
            return
        left = needed


def _run(connection: AdminConnection, file: SqlFile) -> None:
    """Run the statements of a file; MigrationError names the file and the line."""
    try:
        connection.execute(file.text.encode())
    except psycopg.errors.InvalidFunctionDefinition:
        raise
    except psycopg.Error as error:
        if _is_busy(error):
            raise
        place = error.diag.statement_position
        line = f", line {file.text.count(chr(10), 0, int(place)) + 1}" if place else ""
        reason = error.diag.message_primary or str(error).strip()
        raise MigrationError(f"{file.name}{line}: {reason}") from error


def _is_busy(error: psycopg.Error) -> bool:
    """Return whether an error says that another session holds or changes what is needed."""
    # Rows of the catalogue that another session changes are an internal error: a job of
    # TimescaleDB that starts or ends, say.
    return isinstance(
        error, (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)
    ) or (
        isinstance(error, psycopg.errors.InternalError_)
        and "tuple concurrently" in (error.diag.message_primary or "")
    )


def _patiently(connection: AdminConnection, work: Callable[[], None]) -> None:
    """Retry `work` until its locks are free, without making others queue behind a long reader."""
    deadline = time.monotonic() + BUSY_SECONDS
    connection.execute(sql.SQL("set lock_timeout = {}").format(LOCK_TIMEOUT))
    while True:
        try:
            work()
        except psycopg.Error as error:
            if not _is_busy(error):
                raise
            if time.monotonic() > deadline:
                raise MigrationError(
                    f"the database was busy for {BUSY_SECONDS:.0f} s because of a long "
                    "transaction; end that, or run this again later (completed steps are kept)"
                ) from None
            time.sleep(PAUSE_SECONDS)
        else:
            return


def _numbers(program: str) -> tuple[int, ...]:
    return tuple(int(part) for part in program.split(".") if part.isdigit())


def _one(connection: AdminConnection, query: str, *values: object) -> tuple[Any, ...]:
    row = connection.execute(query.encode(), values).fetchone()
    assert row is not None  # noqa: S101  (these queries return exactly one row)
    return row


def _set_password(connection: AdminConnection, login_url: str) -> None:
    login = conninfo_to_dict(login_url)
    if login.get("user") and login.get("password"):
        set_password(connection, str(login["user"]), str(login["password"]))
