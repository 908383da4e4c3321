"""Rows of the old database, staged in temporary tables and seen as the new columns.

A table is staged with the types that it has there. The view `incoming_<table>` shows it with the
columns and types that it has here, repaired where that is harmless.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql

from app.db.copy.report import NAMED_ROWS, CopyReport
from app.db.copy.tables import CONFIGURATION, Column, Columns, CopyConnection, CopyOptions

COPY_BUFFER_BYTES = 65_536
# Types that both servers have and write alike; any other is staged as text.
STAGED_TYPES = {
    "uuid", "text", "character varying", "boolean", "smallint", "integer", "bigint", "numeric",
    "real", "double precision", "timestamp with time zone", "timestamp without time zone", "date",
    "jsonb", "json", "inet", "interval",
}  # fmt: skip
FLOATS = {"real", "double precision"}
INTEGERS = {"smallint": 2**15, "integer": 2**31}
# Series whose rows have no key there: two rows at one instant are both kept, a microsecond apart.
KEYLESS = ("meter_voltage", "meter_3p_voltage", "meter_health_history")
# Words that have no place here, in columns that may be empty: state that is written again.
STATE_WORDS = {
    ("meter_shadows", "health"): ("healthy", "unhealthy"),
    ("meter_health_history", "health"): ("healthy", "unhealthy"),
    ("meter_shadows", "emnify_connectivity_status"): ("online", "offline", "attached", "blocked"),
}
KWH = "kwh"

CopyProgress = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class Staged:
    """A staged table: its columns there and here, those to insert, and the columns of its key."""

    table: str
    there: dict[str, Column]
    here: dict[str, Column]
    inserted: list[str]
    key: list[str]

    @property
    def staging(self) -> sql.Identifier:
        """The temporary table."""
        return sql.Identifier("pg_temp", f"staged_{self.table}")

    @property
    def incoming(self) -> sql.Identifier:
        """The view that shows it as it is here."""
        return sql.Identifier("pg_temp", f"incoming_{self.table}")


def stage(
    source: CopyConnection,
    target: CopyConnection,
    table: str,
    there: Columns,
    here: Columns,
    options: CopyOptions,
    since: datetime | None,
    progress: CopyProgress,
) -> Staged:
    """Copy a table into a temporary one, and create its view; rows from `since` on, if given."""
    read = {
        name: column
        for name, column in there[table].items()
        if name in here[table] and not {table, f"{table}.{name}"} & options.without
    }
    _create(target, table, read)
    if read:
        _transfer(source, target, table, read, since, progress)
        target.execute(sql.SQL("analyze {}").format(sql.Identifier("pg_temp", f"staged_{table}")))
    key = _key(target, table)
    expressions = _expressions(table, read, here[table])
    joined: sql.Composable = sql.SQL("")
    if table not in CONFIGURATION and read.keys() & {"register_id", "meter_id"}:
        expressions |= _owner(read)
        joined = _parent(read)
    if table == "register_interval_hh" and "import_kwh" in read:
        expressions[KWH] = _sum(expressions)
    elif table == "register_interval_hh" and KWH in read:
        joined += _kwh_direction()
        expressions |= {
            "import_kwh": sql.SQL("case when not exports then s.kwh end"),
            "export_kwh": sql.SQL("case when exports then s.kwh end"),
        }
    inserted = list(expressions)
    rest = [name for name in here[table] if name not in expressions]
    shown = [sql.SQL("{} as {}").format(expressions[n], sql.Identifier(n)) for n in expressions]
    shown += [
        sql.SQL("null::{} as {}").format(sql.SQL(here[table][n].type), sql.Identifier(n))
        for n in rest
    ]
    staged = Staged(table, read, here[table], inserted, key)
    target.execute(
        sql.SQL("create temporary view {} as select {} from {} as s{}").format(
            sql.Identifier(f"incoming_{table}"),
            sql.SQL(", ").join([*shown, sql.SQL("s.row_number")]),
            staged.staging,
            joined,
        )
    )
    return staged


def unstage(target: CopyConnection, staged: Staged) -> None:
    """Drop a staged table and its view."""
    target.execute(sql.SQL("drop table {} cascade").format(staged.staging))


def repair(target: CopyConnection, staged: Staged, report: CopyReport) -> None:
    """Add to the report what the view repairs; move rows at one instant apart."""
    table = staged.table
    for name, column in staged.there.items():
        here = staged.here[name]
        if here.required and here.default:
            found(target, staged, sql.SQL("s.{} is null").format(sql.Identifier(name)), report,
                  "repaired", name, "empty, and has its default now")  # fmt: skip
        if words := STATE_WORDS.get((table, name)):
            condition = sql.SQL("s.{}::text <> all({})").format(
                sql.Identifier(name), sql.Literal(list(words))
            )
            found(target, staged, condition, report, "repaired", name,
                  f"other words than {', '.join(words)}, and empty now",
                  shown=sql.SQL("s.{}::text").format(sql.Identifier(name)))  # fmt: skip
        if column.type in FLOATS:
            found(
                target,
                staged,
                sql.SQL("s.{0} in ('NaN', 'Infinity', '-Infinity')").format(sql.Identifier(name)),
                report,
                "repaired",
                name,
                "no number, and empty now",
            )
    if table in KEYLESS:
        _move_apart(target, staged, report)
    if table == "circuit_register" and {"start_time", "end_time"} <= staged.there.keys():
        found(target, staged, sql.SQL("s.end_time <= s.start_time"), report, "left out",
              "end_time", "maps nothing, since it ends before it begins")  # fmt: skip
        target.execute(
            sql.SQL("delete from {} as s where s.end_time <= s.start_time").format(staged.staging)
        )


def found(
    target: CopyConnection,
    staged: Staged,
    condition: sql.Composable,
    report: CopyReport,
    kind: str,
    column: str,
    text: str,
    *,
    shown: sql.Composable | None = None,
    incoming: bool = False,
) -> int:
    """Add the rows that fulfil a condition to the report; return their number.

    The condition is on the staged row `s`, or with `incoming` on the row as it is here. `shown` is
    an expression to name beside the key.
    """
    relation = staged.incoming if incoming else staged.staging
    rows = sql.SQL(" from {} as s where {}").format(relation, condition)
    # The simple question first: almost always there are none.
    if not _one(target, sql.SQL("select exists (select{})").format(rows)):
        return 0
    key = [name for name in staged.key if incoming or name in staged.there] or ["row_number"]
    parts = [sql.Identifier("s", name) for name in key]
    named = sql.SQL("concat_ws(' ', {})").format(
        sql.SQL(", ").join([*parts, shown] if shown is not None else parts)
    )
    count = int(_one(target, sql.SQL("select count(*)") + rows))
    named_rows = target.execute(
        sql.SQL("select {}").format(named) + rows + sql.SQL(" limit {}").format(NAMED_ROWS)
    ).fetchall()
    report.add(kind, staged.table, column, text, count, [row[0] for row in named_rows])
    return count


def _one(target: CopyConnection, query: sql.Composed) -> Any:
    row = target.execute(query).fetchone()
    assert row is not None  # noqa: S101  (these queries return exactly one row)
    return row[0]


def _create(target: CopyConnection, table: str, read: dict[str, Column]) -> None:
    columns: list[sql.Composable] = [
        sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(_staged_type(column)))
        for name, column in read.items()
    ]
    columns.append(sql.SQL("row_number bigint generated always as identity"))
    target.execute(
        sql.SQL("create temporary table {} ({}) on commit drop").format(
            sql.Identifier(f"staged_{table}"), sql.SQL(", ").join(columns)
        )
    )


def _staged_type(column: Column) -> str:
    return column.type if column.type in STAGED_TYPES and not column.named else "text"


def _transfer(
    source: CopyConnection,
    target: CopyConnection,
    table: str,
    read: dict[str, Column],
    since: datetime | None,
    progress: CopyProgress,
) -> None:
    listed = sql.SQL(", ").join(map(sql.Identifier, read))
    # COPY of a query, not of the table, because a hypertable's rows are in its chunks.
    query = sql.SQL("copy (select {} from {}{}) to stdout").format(
        listed,
        sql.Identifier("flows", table),
        sql.SQL("") if since is None else
        sql.SQL(' where "timestamp" >= {}').format(sql.Literal(since.isoformat())),
    )  # fmt: skip
    write = sql.SQL("copy {} ({}) from stdin").format(
        sql.Identifier("pg_temp", f"staged_{table}"), listed
    )
    rows = 0
    # Each block of COPY is one row, so collect them in a buffer.
    buffer = bytearray()

    def hand_on(into: psycopg.Copy) -> None:
        nonlocal rows
        into.write(bytes(buffer))
        rows += buffer.count(b"\n")
        buffer.clear()
        progress(table, rows)

    with (
        source.cursor().copy(query) as out,
        target.cursor() as cursor,
        cursor.copy(write) as into,
    ):
        for block in out:
            buffer += block
            if len(buffer) >= COPY_BUFFER_BYTES:
                hand_on(into)
        if buffer:
            hand_on(into)


def _key(target: CopyConnection, table: str) -> list[str]:
    """Return the columns of a table's primary key."""
    query = """
        select a.attname from pg_catalog.pg_constraint as k
        cross join unnest(k.conkey) with ordinality as c (number, place)
        join pg_catalog.pg_attribute as a on a.attrelid = k.conrelid and a.attnum = c.number
        where k.conrelid = %s::regclass and k.contype = 'p' order by c.place
    """
    return [row[0] for row in target.execute(query, (f"flows.{table}",))]


def _expressions(
    table: str, read: dict[str, Column], here: dict[str, Column]
) -> dict[str, sql.Composable]:
    """Return column → expression over the staged row `s` that has the column's type here."""
    found: dict[str, sql.Composable] = {}
    for name, column in read.items():
        expression: sql.Composable = sql.SQL("s.{}").format(sql.Identifier(name))
        wanted = here[name]
        if words := STATE_WORDS.get((table, name)):
            expression = sql.SQL("case when {0}::text = any({1}) then {0}::text end").format(
                expression, sql.Literal(list(words))
            )
        elif column.type in FLOATS:
            # By way of text: the cast to numeric keeps six digits of a real alone.
            expression = sql.SQL(
                "case when {0} not in ('NaN', 'Infinity', '-Infinity') then {0}::text::numeric end"
            ).format(expression)
        elif column.type == "timestamp without time zone" != wanted.type:
            expression = sql.SQL("{} at time zone 'UTC'").format(expression)
        elif _staged_type(column) != wanted.type and wanted.type not in INTEGERS:
            expression = sql.SQL("{}::text::{}").format(expression, sql.SQL(wanted.type))
        if wanted.required and wanted.default:
            expression = sql.SQL("coalesce({}, {})").format(expression, sql.SQL(wanted.default))
        found[name] = expression
    return found


def _owner(read: dict[str, Column]) -> dict[str, sql.Composable]:
    """Return the expression of a series' owner: the parent's, where the row has none."""
    return {"esco": sql.SQL("coalesce(s.esco, parent.esco)" if "esco" in read else "parent.esco")}


def _parent(read: dict[str, Column]) -> sql.Composable:
    """Return the join with the parents of a series, which are written before it.

    Found for all rows together, the owner costs a tenth of what the trigger's look for each does.
    """
    return sql.SQL(
        " left join flows.meter_registers as parent on parent.register_id = s.register_id"
        if "register_id" in read
        else " left join flows.meter_registry as parent on parent.id = s.meter_id"
    )


def _sum(expressions: dict[str, sql.Composable]) -> sql.Composable:
    """Return the expression of kwh, as the database would complete it."""
    directions = [expressions[n] for n in ("import_kwh", "export_kwh") if n in expressions]
    given = [expressions[KWH]] if KWH in expressions else []
    return sql.SQL("coalesce({})").format(
        sql.SQL(", ").join([*given, sql.SQL(" + ").join(directions), *directions])
    )


def _kwh_direction() -> sql.Composable:
    return sql.SQL(
        " cross join lateral (select s.register_id in (select e.register_id from"
        " pg_temp.exporting as e where e.times is null) or ("
        " (select count(*) > 0 from pg_temp.exporting as e where e.times is not null)"
        " and exists (select from pg_temp.exporting as e where e.register_id = s.register_id"
        ' and e.times @> s."timestamp")) as exports) as direction'
    )


def _move_apart(target: CopyConnection, staged: Staged, report: CopyReport) -> None:
    moved = target.execute(
        sql.SQL(
            "with twice as ("
            ' select s.meter_id, s."timestamp" from {0} as s group by 1, 2 having count(*) > 1'
            "), numbered as ("
            " select s.row_number, row_number() over ("
            "  partition by s.meter_id, s.\"timestamp\" order by to_jsonb(s) - 'row_number'"
            " ) as place"
            ' from {0} as s join twice using (meter_id, "timestamp")'
            ') update {0} as s set "timestamp" = s."timestamp"'
            " + (n.place - 1) * interval '1 microsecond'"
            " from numbered as n where s.row_number = n.row_number and n.place > 1"
            " returning concat_ws(' ', s.meter_id, s.\"timestamp\")"
        ).format(staged.staging)
    ).fetchall()
    if moved:
        report.add(
            "repaired", staged.table, "timestamp",
            "two rows at one instant, a microsecond apart now", len(moved),
            [row[0] for row in moved[:NAMED_ROWS]],
        )  # fmt: skip
