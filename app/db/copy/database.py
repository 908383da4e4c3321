"""The copy: one snapshot of the old database into one transaction of the new one."""

import time
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from app.db.copy.checks import refuse_rows, refuse_shared
from app.db.copy.report import NAMED_ROWS, CopyRefused, CopyReport, Sums, TableCount
from app.db.copy.staging import FLOATS, KWH, CopyProgress, Staged, found, repair, stage, unstage
from app.db.copy.tables import (
    CONFIGURATION,
    PREFILLED,
    Column,
    Columns,
    CopyConnection,
    CopyOptions,
    columns_of,
    copied_tables,
    require_known,
)

COPY_ATTEMPTS = 3
RESTART_SECONDS = 2.0
SHOWN_FINDINGS = 20
# Both write and read texts of times and numbers alike.
ALIKE = (
    "select set_config('timezone', 'UTC', false), set_config('datestyle', 'ISO', false),"
    " set_config('intervalstyle', 'postgres', false), set_config('extra_float_digits', '1', false)"
)
SUMMED = ("numeric", "smallint", "integer")
KNOWN_NATURES = ("heat", "power", "solar", "none")
# Registers whose kwh is export: at all times, or while they are mapped to a solar circuit.
EXPORTING = """
    create temporary table exporting on commit drop as
    with register as (
        select r.register_id, coalesce(
            %(chosen)s ->> r.register_id::text, %(chosen)s ->> coalesce(r.nature, 'none'),
            %(chosen)s ->> ''
        ) as chosen, r.nature
        from pg_temp.incoming_meter_registers as r
    )
    select r.register_id, null::tstzmultirange as times from register as r
    where coalesce(r.chosen, case r.nature when 'solar' then 'export' end) = 'export'
    union all
    select r.register_id, range_agg(tstzrange(m.start_time, m.end_time))
    from register as r
    join pg_temp.incoming_circuit_register as m on m.register = r.register_id
    join pg_temp.incoming_circuits as c on m.circuit = c.id
    where r.chosen is null and r.nature is distinct from 'solar' and c.type = 'solar'
    group by 1
"""
OUTDATED = """
    select r.series, r.keep::text from flows.retention as r
    where r.keep is not null and r.series = %s
"""


def copy_database(
    source_url: str,
    target_url: str,
    progress: CopyProgress,
    options: CopyOptions | None = None,
    attempts: int = COPY_ATTEMPTS,
) -> CopyReport:
    """Copy every table of schema flows from one server to the other; return what was done.

    It reads one snapshot and writes one transaction, so it copies all or nothing; if a connection
    breaks, it starts again. `progress` is called with a table and its rows so far. CopyRefused if a
    row, a column or a table cannot be copied.
    """
    for attempt in range(1, attempts + 1):
        try:
            return _copy_once(source_url, target_url, progress, options or CopyOptions())
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            if attempt == attempts or not _broken(error, attempt):
                raise
            progress(f"the connection broke: starting again, {attempt + 1} of {attempts}", 0)
            time.sleep(RESTART_SECONDS * attempt)
    raise AssertionError("the last attempt returns or raises")


def _broken(error: psycopg.Error, attempt: int) -> bool:
    """Return whether an error says that a connection broke, or cannot be made again."""
    lost = error.sqlstate is None or error.sqlstate[:2] in ("08", "57")
    return lost and (attempt > 1 or not isinstance(error, psycopg.errors.ConnectionTimeout))


def _copy_once(
    source_url: str, target_url: str, progress: CopyProgress, options: CopyOptions
) -> CopyReport:
    started, report = time.monotonic(), CopyReport()
    with psycopg.connect(source_url) as source, psycopg.connect(target_url) as target:
        source.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        source.read_only = True
        for connection in (source, target):
            connection.execute(ALIKE)
        target.execute("select set_config('flows.copying', 'on', false)")
        source.commit()
        tables = copied_tables(target)
        there, here = columns_of(source, tables), columns_of(target, tables)
        if not any(there.values()):
            raise CopyRefused("the other database has no tables in a schema flows")
        require_known(source, tables, there, here, options)
        if not options.newer:
            _require_empty(target, tables)
        _Copy(source, target, there, here, options, report, progress).run(tables)
        report.seconds = time.monotonic() - started
    return report


def _require_empty(target: CopyConnection, tables: list[str]) -> None:
    for table in tables:
        query = sql.SQL("select exists (select from {})").format(sql.Identifier("flows", table))
        (filled,) = target.execute(query).fetchone() or (False,)
        if filled and table not in PREFILLED:
            raise CopyRefused(
                f"{table} has rows here already: copy into a new database, or add what is newer "
                "with --newer"
            )


class _Copy:
    """One attempt, within a transaction of each database."""

    def __init__(
        self,
        source: CopyConnection,
        target: CopyConnection,
        there: Columns,
        here: Columns,
        options: CopyOptions,
        report: CopyReport,
        progress: CopyProgress,
    ) -> None:
        self.source, self.target = source, target
        self.there, self.here = there, here
        self.options, self.report, self.progress = options, report, progress
        self.parents: set[str] = set()

    def run(self, tables: list[str]) -> None:
        """Copy all tables; CopyRefused if rows cannot be copied, after all tables were checked."""
        self.target.execute(
            "create temporary table refused (relation text, key text) on commit drop"
        )
        staged = {table: self._stage(table) for table in CONFIGURATION}
        self.parents = set(staged)
        for table in CONFIGURATION:
            self._check(staged[table])
        refuse_shared(self.target, self.report)
        self._note_configuration(staged)
        self.target.execute(EXPORTING, {"chosen": Jsonb(self.options.kwh_as)})
        for table in CONFIGURATION:
            self._write(staged[table])
        for table in tables:
            if table not in staged:
                series = self._stage(table)
                self._check(series)
                self._write(series)
                unstage(self.target, series)
        if list(self.report.of("refused")):
            raise CopyRefused(_told(self.report), self.report)
        self._compare(tables)

    def _stage(self, table: str) -> Staged:
        since = None
        if self.options.newer and table not in CONFIGURATION:
            since = self.options.since or self._newest(table)
        return stage(self.source, self.target, table, self.there, self.here, self.options, since,
                     self.progress)  # fmt: skip

    def _newest(self, table: str) -> datetime | None:
        query = sql.SQL('select least(max("timestamp"), now()) from {} having count(*) > 0').format(
            sql.Identifier("flows", table)
        )
        (newest,) = self.target.execute(query).fetchone() or (None,)
        return newest - self.options.overlap if newest else None

    def _check(self, staged: Staged) -> None:
        repair(self.target, staged, self.report)
        refuse_rows(self.target, staged, self.parents, self.report, self.options)
        if staged.table not in self.parents:
            self._note_series(staged)

    def _write(self, staged: Staged) -> None:
        if any(self.report.of("refused")) or not staged.inserted:
            return
        table = staged.table
        names = [sql.Identifier(name) for name in staged.inserted]
        # A row that is here keeps the owner it was written under, unless its owner is told there.
        changed = [
            sql.Identifier(name)
            for name in staged.inserted
            if name != "esco" or name in staged.there
        ]
        parts: dict[str, Any] = {
            "table": sql.Identifier("flows", table),
            "columns": sql.SQL(", ").join(names),
            "incoming": staged.incoming,
            "key": sql.SQL(", ").join(sql.Identifier(name) for name in staged.key),
            "changed": sql.SQL(", ").join(changed),
            "new": sql.SQL(", ").join(sql.SQL("excluded.{}").format(name) for name in changed),
            "old": sql.SQL(", ").join(sql.SQL("kept.{}").format(name) for name in changed),
        }
        query = "insert into {table} as kept ({columns}) select {columns} from {incoming}"
        if table in PREFILLED:
            # The names that this program knows give way to those of the deployment.
            known = "delete from {table} as own"
            if self.options.newer:
                known += " using {incoming} as i where own.name = i.name and own.id <> i.id"
            self.target.execute(sql.SQL(known).format(**parts))
        if self.options.newer:
            query += (
                " on conflict ({key}) do update set ({changed}) = row ({new})"
                " where row ({old}) is distinct from row ({new})"
            )
        self._add_partitions(staged)
        self.progress(f"writing {table}", 0)
        try:
            copied = self.target.execute(sql.SQL(query).format(**parts)).rowcount
        except (psycopg.errors.IntegrityError, psycopg.errors.RaiseException) as error:
            told = error.diag.message_detail or error.diag.message_primary or str(error)
            raise CopyRefused(
                f"{table}: {told} ({error.diag.constraint_name or 'a rule of this database'}): "
                "correct it there",
                self.report,
            ) from None
        self.target.execute(sql.SQL("analyze {table}").format(**parts))
        if "derived" in staged.there:
            self.target.execute(
                sql.SQL(
                    "insert into flows.derived_register select distinct register_id from {incoming}"
                    " where derived on conflict do nothing"
                ).format(**parts)
            )
        if table == "circuit_register":
            self._mend_overlaps()
        self.report.counts.append(TableCount(table, copied))

    def _mend_overlaps(self) -> None:
        """End mappings of a register that overlap on a circuit, which this database refuses."""
        mended = self.target.execute(
            "select concat_ws(' ', circuit, register, start_time)"
            " from flows.mend_overlaps(most => null)"
        ).fetchall()
        if mended:
            self.report.add(
                "repaired", "circuit_register", "end_time",
                "overlaps another mapping of its register on its circuit; the earlier ends where "
                "the later begins now", len(mended), [row[0] for row in mended[:NAMED_ROWS]],
            )  # fmt: skip

    def _add_partitions(self, staged: Staged) -> None:
        """Add partitions for years that plain PostgreSQL has none for yet."""
        (plain,) = self.target.execute("select flows.engine() = 'postgres'").fetchone() or (False,)
        if not plain or staged.table in self.parents or "timestamp" not in staged.there:
            return
        query = sql.SQL(
            "select flows.add_partition({}, year) from (select distinct"
            " extract(year from s.\"timestamp\" at time zone 'UTC')::integer as year from {} as s)"
            " as y where year >= 2000 and year > extract(year from now()) + 5"
        ).format(sql.Literal(staged.table), staged.staging)
        self.target.execute(query)

    def _note_configuration(self, staged: dict[str, Staged]) -> None:
        if "site" in staged["meter_registry"].there:
            found(
                self.target, staged["meter_registry"],
                sql.SQL("s.site is not null and not exists"
                        " (select from pg_temp.incoming_sites_new as n where n.id = s.site)"),
                self.report, "noted", "site", "names a site that is not there; kept as it is",
                shown=sql.SQL("s.site"), incoming=True,
            )  # fmt: skip
        if staged["meter_shadows"].there:
            found(
                self.target, staged["meter_registry"],
                sql.SQL("not exists"
                        " (select from pg_temp.incoming_meter_shadows as n where n.id = s.id)"),
                self.report, "noted", "", "has no shadow there, and an empty one here",
                incoming=True,
            )  # fmt: skip

    def _note_series(self, staged: Staged) -> None:
        if "timestamp" not in staged.there:
            return
        if staged.table == "meter_event_log":
            found(self.target, staged, sql.SQL("s.\"timestamp\" < '2000-01-01 00:00Z'"),
                  self.report, "noted", "timestamp", "before 2000; kept as it is")  # fmt: skip
        keep = self.target.execute(OUTDATED, (staged.table,)).fetchone()
        if keep is not None:
            found(self.target, staged,
                  sql.SQL('s."timestamp" < now() - {}::interval').format(sql.Literal(keep[1])),
                  self.report, "noted", "timestamp",
                  f"older than {keep[1]}, so retention removes it later; to keep it, change "
                  "flows.retention first")  # fmt: skip

    def _compare(self, tables: list[str]) -> None:
        """Count and sum both sides; CopyRefused if a full copy is not equal."""
        counts = {count.table: count for count in self.report.counts}
        left_out = {finding.table for finding in self.report.of("left out")}
        for table in tables:
            if table not in counts:
                continue
            self.progress(f"comparing {table}", 0)
            count = counts[table]
            summed = [
                column for name, column in self.there[table].items()
                if table not in CONFIGURATION and name in self.here[table]
                and self.here[table][name].type in SUMMED
            ]  # fmt: skip
            measured = "derived" in self.here[table] and "derived" not in self.there[table]
            count.there, count.sums_there = _sums(self.source, table, summed)
            count.here, count.sums_here = _sums(self.target, table, [
                self.here[table][column.name] for column in summed
            ], "not derived" if measured else "true")  # fmt: skip
            if self.options.newer or count.equal or table in left_out:
                continue
            if table == "meter_shadows" and count.here > count.there:
                continue
            raise CopyRefused(
                f"{table}: {count.there:,} rows there, {count.here:,} here, sums "
                f"{count.sums_there} and {count.sums_here}",
                self.report,
            )


def _sums(
    connection: CopyConnection, table: str, columns: list[Column], condition: str = "true"
) -> tuple[int, Sums]:
    """Return the number of rows, and the sum of each column, exact."""
    parts: list[sql.Composable] = [sql.SQL("count(*)")]
    for column in columns:
        value: sql.Composable = sql.Identifier(column.name)
        if column.name == KWH and any(other.name == "import_kwh" for other in columns):
            # Here it is always the sum; there it may be empty still.
            value = sql.SQL("coalesce(kwh, import_kwh + export_kwh, import_kwh, export_kwh)")
        if column.type in FLOATS:
            parts.append(
                sql.SQL(
                    "sum({0}::text::numeric)"
                    " filter (where {0} not in ('NaN', 'Infinity', '-Infinity'))"
                ).format(value)
            )
        else:
            parts.append(sql.SQL("sum({}::numeric)").format(value))
    query = sql.SQL("select {} from {} where {}").format(
        sql.SQL(", ").join(parts), sql.Identifier("flows", table), sql.SQL(condition)
    )
    row = connection.execute(query).fetchone() or (0,)
    return int(row[0]), dict(zip((c.name for c in columns), row[1:], strict=True))


def _told(report: CopyReport) -> str:
    refused = list(report.of("refused"))
    lines = [str(finding) for finding in refused[:SHOWN_FINDINGS]]
    if len(refused) > SHOWN_FINDINGS:
        lines.append(f"and {len(refused) - SHOWN_FINDINGS} more (--report FILE has all)")
    return "rows cannot be copied as they are:\n  " + "\n  ".join(lines)


def parse_kwh_as(words: list[str]) -> dict[str, str]:
    """Return `kwh_as` for words like `import`, `solar=import` or `REGISTER=export`.

    ValueError names a word that is none.
    """
    chosen: dict[str, str] = {}
    for word in words:
        which, _, direction = word.rpartition("=")
        if direction not in ("import", "export"):
            raise ValueError(f"{word}: say import or export, for all or as REGISTER=import")
        if which and which not in KNOWN_NATURES:
            try:
                which = str(UUID(which))
            except ValueError:
                raise ValueError(
                    f"{word}: {which} is neither the id of a register nor one of "
                    f"{', '.join(KNOWN_NATURES)}"
                ) from None
        chosen[which] = direction
    return chosen
