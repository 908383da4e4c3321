"""Differences between the database's objects and their state when sql/objects was applied."""

from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg.rows import tuple_row

# Rights on partitions and chunks are checked with their table's; an operator's own roles and
# indexes are none of ours. A role's settings are the operator's, too.
OBJECTS = """
    with ours as (
        select c.* from pg_class as c
        where c.relnamespace = any(array['flows', 'api', 'gateway']::regnamespace[])
            and not c.relispartition
    ),
    caller as (
        select oid, rolname::text as name from pg_roles
        where rolname in ('flows', 'public_backend', 'resident', 'grafanareader', 'tsdbadmin',
            'flows_gateway', 'authenticator')
        union all select 0, 'public'
    ),
    granted as (
        select 'on ' || c.oid::regclass::text as place, a.grantee, a.privilege_type
        from ours as c cross join aclexplode(c.relacl) as a where c.relkind in ('r', 'p', 'v', 'm')
        union all
        select format('on column %s.%I', c.oid::regclass, t.attname), a.grantee, a.privilege_type
        from ours as c join pg_attribute as t on t.attrelid = c.oid
        cross join aclexplode(t.attacl) as a
        union all
        select 'on ' || p.oid::regprocedure::text, a.grantee, a.privilege_type
        from pg_proc as p
        cross join aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a
        where p.pronamespace = any(array['flows', 'api', 'gateway']::regnamespace[])
        union all
        select 'on schema ' || n.nspname, a.grantee, a.privilege_type
        from pg_namespace as n cross join aclexplode(n.nspacl) as a
        where n.nspname in ('flows', 'api', 'gateway')
    )
    select 'policy' as kind, format('"%s" on %s', p.polname, p.polrelid::regclass) as name,
        concat_ws(' ', p.polcmd::text, p.polpermissive,
            array(select r::regrole::text from unnest(p.polroles) as r where r > 0 order by 1),
            pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
            as definition
    from pg_policy as p join ours as c on c.oid = p.polrelid
    union all
    select 'row security', c.oid::regclass::text, concat_ws(', ',
        case when c.relrowsecurity then 'enable row level security' end,
        case when c.relforcerowsecurity then 'force row level security' end)
    from ours as c where c.relkind in ('r', 'p') and (c.relrowsecurity or c.relforcerowsecurity)
    union all
    select 'trigger', format('%s on %s', t.tgname, c.oid::regclass),
        t.tgenabled::text || ' ' || pg_get_triggerdef(t.oid)
    from pg_trigger as t join ours as c on c.oid = t.tgrelid
    join pg_proc as p on p.oid = t.tgfoid
    where not t.tgisinternal
        and p.pronamespace = any(array['flows', 'api', 'gateway']::regnamespace[])
    union all
    select 'view', c.oid::regclass::text,
        md5(pg_get_viewdef(c.oid) || coalesce(c.reloptions::text, ''))
    from ours as c where c.relkind = 'v'
    union all
    select 'function', p.oid::regprocedure::text, md5(pg_get_functiondef(p.oid))
    from pg_proc as p where p.prokind <> 'a'
        and p.pronamespace = any(array['flows', 'api', 'gateway']::regnamespace[])
    union all
    select 'grant', format('%s to %s', g.place, r.name),
        string_agg(distinct lower(g.privilege_type), ', ')
    from granted as g join caller as r on r.oid = g.grantee group by 1, 2
    union all
    select 'index', i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid)
    from pg_index as i join ours as c on c.oid = i.indrelid
    union all
    select 'constraint', format('%I on %s', k.conname, c.oid::regclass), pg_get_constraintdef(k.oid)
    from pg_constraint as k join ours as c on c.oid = k.conrelid where k.contype in ('c', 'f')
    order by 1, 2
"""
# Kinds that sql/objects creates, so that applying it again mends them.
REPLACED = frozenset(("policy", "trigger", "view", "function", "grant"))
# Kinds of which more than were recorded may do harm; an operator may add indexes.
CLOSED = frozenset(("policy", "trigger", "grant"))

Record = list[list[str]]


@dataclass(frozen=True, slots=True)
class Drift:
    """An object that is not as recorded; `definition` is the recorded one, None if there is none.

    `definition` is a statement for an index, and a checksum for a view or a function.
    """

    kind: str
    name: str
    change: Literal["missing", "changed", "added"]
    definition: str | None

    @property
    def mended_by_migrate(self) -> bool:
        """True if applying sql/objects again restores it."""
        return self.kind in REPLACED


def read_objects(connection: psycopg.Connection[Any]) -> Record:
    """Return kind, name and definition of each object of our schemas."""
    with (
        connection.transaction(force_rollback=True),
        connection.cursor(row_factory=tuple_row) as cursor,
    ):
        # Names and definitions are then written out alike in every session.
        cursor.execute("select set_config('search_path', '', true)")
        return [list(row) for row in cursor.execute(OBJECTS.encode()).fetchall()]


def compare(recorded: Record, present: Record) -> list[Drift]:
    """Return what is missing, changed or added; nothing if there is no record."""
    if not recorded:
        return []
    before = {(kind, name): definition for kind, name, definition in recorded}
    now = {(kind, name): definition for kind, name, definition in present}
    found = [
        Drift(kind, name, "missing" if (kind, name) not in now else "changed", definition)
        for (kind, name), definition in before.items()
        if now.get((kind, name)) != definition
    ]
    found += [
        Drift(kind, name, "added", None)
        for kind, name in now
        if (kind, name) not in before and kind in CLOSED
    ]
    return sorted(found, key=lambda drift: (drift.kind, drift.name))
