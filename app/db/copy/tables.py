"""Tables and columns of both databases, and the options of a copy."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

from app.db.copy.report import CopyRefused, CopyReport

CopyConnection = psycopg.Connection[Any]

# Configuration tables, in an order that foreign keys allow; they are copied before the series.
CONFIGURATION = (
    "regions", "escos", "sites_new", "properties", "feeder_registry", "service_head_registry",
    "meter_registry", "meter_shadows", "meter_registers", "meter_tophat_registry", "circuits",
    "meter_metrics", "meter_event_log_type", "ev_chargers", "service_head_meter",
    "properties_service_head", "circuit_register", "former_service_head_meter",
    "former_properties_service_head",
)  # fmt: skip
# Rows of the platform that a new database may have before anything is copied.
PREFILLED = ("meter_metrics", "meter_event_log_type")
# Computed from others, on both sides.
COMPUTED = "^(circuit_interval_.*|circuit_sums_.*|.*_missing)$"
# Tables of this program that describe one database alone.
BOOKKEEPING = ("change", "retention", "register_extent", "removed_half_hour", "bounds")
# Half-hours come before counter reads, from which half-hours would be derived otherwise.
SERIES = """
    select name from flows.series() where key <> 'circuit_id'
    order by name <> 'register_interval_hh', key desc, name
"""
# Faster than information_schema.columns, which takes ten times as long for the same columns.
COLUMNS = """
    select c.relname as table, a.attname as name, format_type(t.oid, null) as type,
        t.typtype in ('e', 'd') as named, a.attnotnull as required,
        pg_get_expr(d.adbin, d.adrelid) as default
    from pg_catalog.pg_attribute as a
    join pg_catalog.pg_class as c on c.oid = a.attrelid
    join pg_catalog.pg_type as t on t.oid = a.atttypid
    left join pg_catalog.pg_attrdef as d on d.adrelid = c.oid and d.adnum = a.attnum
    where c.relnamespace = to_regnamespace('flows') and c.relname = any(%s)
        and c.relkind in ('r', 'p', 'v', 'm', 'f')
        and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
        and (
            pg_has_role(c.relowner, 'usage')
            or has_column_privilege(c.oid, a.attnum, 'select, insert, update, references')
        )
"""
OTHERS = """
    select c.relname from pg_catalog.pg_class as c
    where c.relnamespace = to_regnamespace('flows') and c.relkind in ('r', 'p')
        and not c.relispartition and c.relname <> all(%s) and c.relname !~ %s
    order by 1
"""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: the type's name, `named` for an enum or a domain, and the default's expression."""

    table: str
    name: str
    type: str
    named: bool
    required: bool
    default: str | None


Columns = dict[str, dict[str, Column]]


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """Options of a copy.

    `kwh_as` maps a register's id, a nature, or an empty text for all registers to `import` or
    `export`. `without` are tables and columns (`table.column`) to leave out. With `newer`, rows are
    added to an earlier copy: configuration that differs, and of each series the rows after `since`,
    by default `overlap` before the newest row that is here.
    """

    kwh_as: dict[str, str] = field(default_factory=dict)
    without: frozenset[str] = frozenset()
    leave_out_refused: bool = False
    newer: bool = False
    since: datetime | None = None
    overlap: timedelta = timedelta(days=7)


def copied_tables(target: CopyConnection) -> list[str]:
    """Return the tables of schema flows to copy, in order; the series are read from `target`."""
    return [*CONFIGURATION, *(row[0] for row in target.execute(SERIES))]


def columns_of(connection: CopyConnection, tables: list[str]) -> Columns:
    """Return table → name → column, of columns that store values and that the user may read."""
    found: Columns = {table: {} for table in tables}
    for row in connection.execute(COLUMNS, (tables,)):
        column = Column(*row)
        found[column.table][column.name] = column
    return found


def require_known(
    source: CopyConnection, tables: list[str], there: Columns, here: Columns, options: CopyOptions
) -> None:
    """Raise CopyRefused for tables and columns that hold data and have no place here.

    Those named in `options.without` may be lost.
    """
    report = CopyReport()
    known = [*tables, *BOOKKEEPING, "derived_register"]
    for (table,) in source.execute(OTHERS, (known, COMPUTED)).fetchall():
        if table not in options.without and (count := _count(source, table, None)):
            report.add("refused", table, "", "this table has no place here", count)
    for table in tables:
        for name in sorted(there[table].keys() - here[table].keys()):
            left_out = {table, f"{table}.{name}"} & options.without
            if not left_out and (count := _count(source, table, name)):
                report.add("refused", table, name, "this column has no place here", count)
    if report.findings:
        where = " ".join(
            f"--without {f.table}{'.' + f.column if f.column else ''}" for f in report.findings
        )
        told = "\n  ".join(f"{finding} values" for finding in report.findings)
        raise CopyRefused(
            f"columns or tables that hold data would be lost:\n  {told}\n"
            f"Leave them out by name, {where}, or copy what they hold to a column that is here.",
            report,
        )


def _count(source: CopyConnection, table: str, column: str | None) -> int:
    counted = sql.SQL("*") if column is None else sql.Identifier(column)
    query = sql.SQL("select count({}) from {}").format(counted, sql.Identifier("flows", table))
    (count,) = source.execute(query).fetchone() or (0,)
    return int(count)
