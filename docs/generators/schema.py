"""The schema reference, from the catalogue: relations, columns, units, keys, rights, diagram."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg.rows import class_row

INTRODUCTION = """\
# Schema reference

Everything a caller can reach is in the schema `api`: PostgREST offers it under `/rest/v1`, and
clients that say `Accept-Profile: flows` mean it too. The tables behind it, under the same names in
the schema `flows`, are reached by the database's administrators alone. A row is seen by the ESCO
that owns it, whatever the role; how is in [Isolation](../explanation/isolation.md).

Ids are UUIDs, times are `timestamp with time zone`. In the tables below **key** marks a primary
key, *required* a column that an insert must give, → the relation that a column refers to.

## Who may do what

| role | who has it | rows |
|---|---|---|
| `public_backend` | tokens with scope `read` | its ESCO's |
| `flows` | tokens with scope `write` too | its ESCO's |
| `resident` | tokens of residents | those of its homes |
| `grafanareader` | monitoring | every ESCO's |

Administrators work in SQL as `tsdbadmin`, on the tables of `flows`: every row, every verb.

"""
ROLES = ("public_backend", "flows", "resident", "grafanareader")
UNIT = re.compile(r", (kWh|kW|pounds per kWh|pounds a day|pounds|V|A|s|days)\b")
SERIES_KEYS = {
    "register_id": "meter_registers",
    "meter_id": "meter_registry",
    "circuit_id": "circuits",
}
AGGREGATE = "circuit_interval_"
SERIES_TIMES = {"timestamp", "day", "month"}

COLUMNS = """
    select
        view.relname as relation, a.attname as name, format_type(a.atttypid, a.atttypmod) as type,
        col_description(view.oid, a.attnum) as comment, t.typcategory = 'N' as is_number,
        coalesce(b.attnotnull and not b.atthasdef and b.attidentity = '', false) as required,
        coalesce((
            select true from pg_constraint as k
            where k.conrelid = b.attrelid and k.contype = 'p' and b.attnum = any(k.conkey)
        ), false) as key,
        coalesce((
            select true from pg_constraint as k
            where k.conrelid = b.attrelid and k.contype = 'u' and k.conkey = array[b.attnum]
            limit 1
        ), false) as is_unique,
        (
            select target.relname || '.' || there.attname from pg_constraint as k
            join pg_class as target on target.oid = k.confrelid
            join pg_attribute as there on there.attrelid = k.confrelid
                and there.attnum = k.confkey[array_position(k.conkey, b.attnum)]
            where k.conrelid = b.attrelid and k.contype = 'f' and b.attnum = any(k.conkey)
            order by array_length(k.conkey, 1), k.conname limit 1
        ) as refers_to,
        base.oid is not null as has_table
    from pg_class as view
    join pg_attribute as a on a.attrelid = view.oid and a.attnum > 0 and not a.attisdropped
    join pg_type as t on t.oid = a.atttypid
    left join pg_class as base on base.relnamespace = 'flows'::regnamespace
        and base.relname = view.relname and base.relkind in ('r', 'p')
    left join pg_attribute as b on b.attrelid = base.oid and b.attname = a.attname
    where view.relnamespace = 'api'::regnamespace and view.relkind in ('v', 'r', 'm')
    order by view.relname, a.attnum
"""
RELATIONS = """
    select c.relname, obj_description(c.oid, 'pg_class'), (
        select array_agg(role || ' ' || verb) from unnest(%s::text[]) as role
        cross join unnest(array['select', 'insert', 'update', 'delete']) as verb
        where has_table_privilege(role, c.oid, verb)
    )
    from pg_class as c
    where c.relnamespace = 'api'::regnamespace and c.relkind in ('v', 'r', 'm') order by c.relname
"""
FUNCTIONS = """
    select p.proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid),
        obj_description(p.oid, 'pg_proc'), coalesce((
            select array_agg(role) from unnest(%s::text[]) as role
            where has_function_privilege(role, p.oid, 'execute')
        ), '{}')
    from pg_proc as p
    where p.pronamespace = 'api'::regnamespace and p.proname not like 'newest\\_%%'
    order by p.proname, 2
"""


@dataclass(frozen=True)
class Column:
    """A column of a relation in `api`, with the properties it has in its table in `flows`."""

    relation: str
    name: str
    type: str
    comment: str
    is_number: bool
    required: bool
    key: bool
    is_unique: bool
    refers_to: str | None
    has_table: bool


@dataclass(frozen=True)
class Relation:
    """A relation of `api`: its comment, the rights of roles, and its columns."""

    name: str
    comment: str
    rights: frozenset[str]
    columns: tuple[Column, ...]

    @property
    def keys(self) -> list[str]:
        """The names of the columns of its primary key."""
        return [column.name for column in self.columns if column.key]

    @property
    def kind(self) -> str:
        """The section of the page that it belongs to."""
        names = {column.name for column in self.columns}
        series = names & SERIES_KEYS.keys() and names & SERIES_TIMES
        references = [column for column in self.columns if column.key and column.refers_to]
        if self.name.startswith(AGGREGATE):
            return "Aggregates"
        if not self.columns[0].has_table:
            return "Views"
        if series:
            return "Time series"
        return "Junctions" if len(references) > 1 else "Configuration and state"


SECTIONS = {
    "Configuration and state": "What there is, and how it is now.",
    "Junctions": "Links of many to many; both ends of a link must be the writer's.",
    "Time series": "Samples and readings, kept as long as `flows.retention` says.",
    "Aggregates": "Made from half-hours and the mapping in force at each; nobody writes them.",
    "Views": "Computed from the relations above.",
}


def page(database_url: str) -> str:
    """Return the page as Markdown, generated from the catalogue of a migrated database."""
    with psycopg.connect(database_url) as connection:
        relations = list(_read_relations(connection))
        functions = connection.execute(FUNCTIONS, [list(ROLES)]).fetchall()
    parts = [INTRODUCTION, _rights(relations), "## The relations in pictures\n"]
    parts += [_picture("What there is, and how it is linked", _links(relations))]
    parts += [_picture("What is measured", _series_links(relations))]
    for title, text in SECTIONS.items():
        parts.append(f"## {title}\n\n{text}\n")
        parts += [_relation(one) for one in relations if one.kind == title]
    parts.append("## Functions\n\nCalled by `POST /rest/v1/rpc/<name>`.\n")
    for name, arguments, result, comment, roles in functions:
        parts.append(f"### {name}\n\n{comment}\n\n`{name}({arguments})` → `{result}`\n\n"
                     f"Callable by {_quoted(roles)}.\n")  # fmt: skip
    return "\n".join(parts)


def _read_relations(connection: psycopg.Connection[Any]) -> Iterator[Relation]:
    with connection.cursor(row_factory=class_row(Column)) as cursor:
        columns = cursor.execute(COLUMNS).fetchall()
    for name, comment, rights in connection.execute(RELATIONS, [list(ROLES)]).fetchall():
        own = tuple(column for column in columns if column.relation == name)
        if name.startswith(AGGREGATE):
            own = tuple(map(_of_aggregate, own))
        yield Relation(name, comment, frozenset(rights or ()), own)


def _of_aggregate(column: Column) -> Column:
    """Return a column of an aggregate with its key, which has a constraint on one engine only."""
    key = column.name in SERIES_KEYS or column.name in SERIES_TIMES
    to = f"{SERIES_KEYS[column.name]}.id" if column.name in SERIES_KEYS else None
    return replace(column, key=key, required=False, is_unique=False, refers_to=to)


def _rights(relations: Iterable[Relation]) -> str:
    """Return the table of relations and the rights of roles."""
    lines = [
        "`r` reads, `i` inserts, `u` updates, `d` deletes.\n",
        f"| relation | {' | '.join(f'`{role}`' for role in ROLES)} |",
        f"|---|{'---|' * len(ROLES)}",
    ]
    for relation in relations:
        cells = (_letters(relation, role) for role in ROLES)
        lines.append(f"| [{relation.name}](#{relation.name}) | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _letters(relation: Relation, role: str) -> str:
    verbs = {"select": "r", "insert": "i", "update": "u", "delete": "d"}
    letters = "".join(verbs[verb] for verb in verbs if f"{role} {verb}" in relation.rights)
    return f"`{letters}`" if letters else ""


def _links(relations: list[Relation]) -> list[str]:
    """Return a line of the diagram for each reference between relations other than series."""
    lines = []
    for relation in relations:
        if relation.kind in ("Configuration and state", "Junctions"):
            for column in relation.columns:
                if column.refers_to and column.refers_to.split(".")[0] != relation.name:
                    to = column.refers_to.split(".")[0]
                    one = "||" if column.required or column.key else "|o"
                    many = "o|" if relation.keys == [column.name] else "o{"
                    lines.append(f"{to} {one}--{many} {relation.name} : {column.name}")
    return lines


def _series_links(relations: list[Relation]) -> list[str]:
    """Return a line of the diagram for each series and aggregate, from the object it belongs to."""
    lines = ["meter_registry ||--o{ meter_registers : meter_id",
             "circuits ||--o{ circuit_register : circuit",
             "meter_registers ||--o{ circuit_register : register"]  # fmt: skip
    for relation in relations:
        if relation.kind in ("Time series", "Aggregates"):
            key = next(c.name for c in relation.columns if c.name in SERIES_KEYS)
            lines.append(f"{SERIES_KEYS[key]} ||--o{{ {relation.name} : {key}")
    return lines


def _picture(title: str, links: list[str]) -> str:
    body = "\n".join(f"    {link}" for link in links)
    return f"**{title}**\n\n```mermaid\nerDiagram\n    direction LR\n{body}\n```\n"


def _relation(relation: Relation) -> str:
    lines = [f"### {relation.name}\n", f"{relation.comment}\n"]
    if relation.keys:
        lines.append(f"Key: {_quoted(relation.keys)}.\n")
    lines += ["| column | type | unit | | meaning |", "|---|---|---|---|---|"]
    for column in relation.columns:
        unit = UNIT.search(column.comment) if column.is_number else None
        comment = column.comment.replace("|", "\\|")
        lines.append(
            f"| `{column.name}` | {column.type} | {unit[1] if unit else ''} | {_marks(column)} "
            f"| {comment} |"
        )
    return "\n".join(lines) + "\n"


def _marks(column: Column) -> str:
    marks = ["**key**"] if column.key else []
    if column.is_unique:
        marks.append("unique")
    if column.required and not column.key:
        marks.append("*required*")
    if column.refers_to:
        target = column.refers_to.split(".")[0]
        marks.append(f"→ [{target}](#{target})")
    return ", ".join(marks)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
