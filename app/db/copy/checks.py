"""Rows that cannot be copied: each is named, with its table, its column and what to do."""

from psycopg import sql

from app.db.copy.report import CopyReport
from app.db.copy.staging import INTEGERS, Staged, found
from app.db.copy.tables import CopyConnection, CopyOptions

# Single-column foreign keys, checks and unique keys; those of owners follow from the parents.
REFERENCES = """
    select a.attname, p.relname, b.attname
    from pg_catalog.pg_constraint as k
    join pg_catalog.pg_class as p on p.oid = k.confrelid
    join pg_catalog.pg_attribute as a on a.attrelid = k.conrelid and a.attnum = k.conkey[1]
    join pg_catalog.pg_attribute as b on b.attrelid = k.confrelid and b.attnum = k.confkey[1]
    where k.conrelid = %s::regclass and k.contype = 'f' and cardinality(k.conkey) = 1
        and k.conparentid = 0 and p.relnamespace = 'flows'::regnamespace
    order by 1
"""
CHECKS = """
    select k.conname, pg_get_expr(k.conbin, k.conrelid), coalesce((
        select string_agg(a.attname, ', ' order by a.attnum) from pg_catalog.pg_attribute as a
        where a.attrelid = k.conrelid and a.attnum = any(k.conkey)
    ), '')
    from pg_catalog.pg_constraint as k where k.conrelid = %s::regclass and k.contype = 'c'
    order by 1
"""
UNIQUE = """
    select array_agg(a.attname::text order by c.place)
    from pg_catalog.pg_constraint as k
    cross join unnest(k.conkey) with ordinality as c (number, place)
    join pg_catalog.pg_attribute as a on a.attrelid = k.conrelid and a.attnum = c.number
    where k.conrelid = %s::regclass and k.contype in ('p', 'u') and k.conname !~ '_owner$'
    group by k.oid order by 1
"""
# Each row has one owner, by its links: those that have links to several ESCOs.
OWNERS = """
    with meter as (
        select m.id, m.esco from pg_temp.incoming_meter_registry as m where m.esco is not null
    ), register as (
        select r.register_id as id, m.esco from pg_temp.incoming_meter_registers as r
        join meter as m on r.meter_id = m.id
    ), owner (kind, id, esco) as (
        select 'service_head_registry', h.id, f.esco
        from pg_temp.incoming_service_head_registry as h
        join pg_temp.incoming_feeder_registry as f on h.feeder = f.id
        union select 'service_head_registry', l.service_head, m.esco
        from pg_temp.incoming_service_head_meter as l join meter as m on l.meter = m.id
        union select 'circuits', c.id, s.esco
        from pg_temp.incoming_circuits as c join pg_temp.incoming_sites_new as s on c.site = s.id
        union select 'circuits', l.circuit, r.esco
        from pg_temp.incoming_circuit_register as l join register as r on l.register = r.id
    ), complete as (
        select * from owner
        union select 'properties', p.id, s.esco
        from pg_temp.incoming_properties as p join pg_temp.incoming_sites_new as s on p.site = s.id
        union select 'properties', l.property, o.esco
        from pg_temp.incoming_properties_service_head as l
        join owner as o on o.kind = 'service_head_registry' and o.id = l.service_head
    )
    select c.kind, c.id::text, string_agg(coalesce(e.code, e.id::text), ', ' order by e.code, e.id)
    from complete as c join pg_temp.incoming_escos as e on c.esco = e.id
    group by c.kind, c.id having count(*) > 1 order by 1, 2
"""


def refuse_rows(
    target: CopyConnection,
    staged: Staged,
    parents: set[str],
    report: CopyReport,
    options: CopyOptions,
) -> None:
    """Add the rows of a staged table that cannot be copied to the report, and unstage them.

    `parents` are the tables that are staged. With `leave_out_refused` they are left out.
    """
    _refuse_values(target, staged, report, options)
    _refuse_references(target, staged, parents, report, options)
    for name, expression, columns in target.execute(CHECKS, (f"flows.{staged.table}",)).fetchall():
        rule = sql.SQL("not ({})").format(sql.SQL(expression))
        _refuse(target, staged, rule, columns, f"refused by the check {name}: {expression}",
                report, options, incoming=True)  # fmt: skip
    if staged.table in parents:
        _refuse_duplicates(target, staged, report, options)


def refuse_shared(target: CopyConnection, report: CopyReport) -> None:
    """Add configuration that has links to several ESCOs to the report."""
    for table, row, codes in target.execute(OWNERS).fetchall():
        report.add(
            "refused", table, "",
            f"a row has one owner, but this one has links to {codes}: remove or change the links "
            "that are wrong", 1, [row],
        )  # fmt: skip


def _refuse_values(
    target: CopyConnection, staged: Staged, report: CopyReport, options: CopyOptions
) -> None:
    for name, column in staged.there.items():
        here, value = staged.here[name], sql.Identifier("s", name)
        if here.required and not here.default:
            _refuse(target, staged, sql.SQL("{} is null").format(value), name,
                    "empty, and must not be: give it a value there", report, options)  # fmt: skip
        if limit := INTEGERS.get(here.type):
            rule = sql.SQL("{0} not between {1} and {2}").format(value, -limit, limit - 1)
            _refuse(target, staged, rule, name, "too large a number: correct it there", report,
                    options, shown=value)  # fmt: skip
        elif here.type != "text" and (column.named or column.type in ("text", "character varying")):
            rule = sql.SQL("not pg_input_is_valid({}, {})").format(value, sql.Literal(here.type))
            _refuse(target, staged, rule, name, f"no {here.type}: correct it there", report,
                    options, shown=value)  # fmt: skip


def _refuse_references(
    target: CopyConnection,
    staged: Staged,
    parents: set[str],
    report: CopyReport,
    options: CopyOptions,
) -> None:
    for name, parent, key in target.execute(REFERENCES, (f"flows.{staged.table}",)).fetchall():
        if name not in staged.there or parent not in parents:
            continue
        value = sql.Identifier("s", name)
        rule = sql.SQL(
            "{0} is not null and not exists (select from {1} as p where p.{2} = {0})"
        ).format(value, sql.Identifier("pg_temp", f"incoming_{parent}"), sql.Identifier(key))
        if options.newer:
            rule += sql.SQL(" and not exists (select from {1} as p where p.{2} = {0})").format(
                value, sql.Identifier("flows", parent), sql.Identifier(key)
            )
        if not options.leave_out_refused:
            # Its parent is named already.
            rule += sql.SQL(
                " and not exists (select from pg_temp.refused as r"
                " where r.relation = {} and r.key = {}::text)"
            ).format(sql.Literal(parent), value)
        _refuse(target, staged, rule, name,
                f"names a row of {parent} that is not there: add or remove it there", report,
                options, shown=value)  # fmt: skip


def _refuse_duplicates(
    target: CopyConnection, staged: Staged, report: CopyReport, options: CopyOptions
) -> None:
    for (columns,) in target.execute(UNIQUE, (f"flows.{staged.table}",)).fetchall():
        if not set(columns) <= staged.there.keys():
            continue
        values = sql.SQL(", ").join(sql.Identifier(name) for name in columns)
        rule = sql.SQL("({0}) in (select {0} from {1} group by {0} having count(*) > 1)").format(
            values, staged.staging
        )
        _refuse(target, staged, rule, ", ".join(columns),
                "the same in several rows: change or remove all but one there", report, options,
                shown=sql.SQL("concat_ws(' ', {})").format(values))  # fmt: skip


def _refuse(
    target: CopyConnection,
    staged: Staged,
    rule: sql.Composable,
    column: str,
    text: str,
    report: CopyReport,
    options: CopyOptions,
    *,
    shown: sql.Composable | None = None,
    incoming: bool = False,
) -> None:
    kind = "left out" if options.leave_out_refused else "refused"
    if not found(target, staged, rule, report, kind, column, text, shown=shown, incoming=incoming):
        return
    relation = staged.incoming if incoming else staged.staging
    if len(staged.key) == 1 and staged.key[0] in staged.there:
        target.execute(
            sql.SQL(
                "insert into pg_temp.refused select {}, s.{}::text from {} as s where {}"
            ).format(sql.Literal(staged.table), sql.Identifier(staged.key[0]), relation, rule)
        )
    target.execute(
        sql.SQL(
            "delete from {} where row_number in (select s.row_number from {} as s where {})"
        ).format(staged.staging, relation, rule)
    )
