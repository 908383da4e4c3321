"""Rules for the catalogue: each of them holds, and each detects a violation."""

from typing import Any

import psycopg
import pytest

from tests.sql.series import AGGREGATES, TIME_SERIES

Admin = psycopg.Connection[Any]

# Series and aggregates have no row level security (TimescaleDB allows none beside the columnstore):
# callers reach them by barrier views alone; so they do what is computed from one as its owner.
REPORTS = {
    "register_interval_hh_missing", "register_interval_hh_latest", "meter_csq_latest",
    "circuit_register_extent", "register_import_missing", "register_export_missing",
}  # fmt: skip
# The relations that store the aggregates; views of their own names show them.
STORED = {name.replace("interval", "sums") for name in AGGREGATES}
SERIES = sorted(TIME_SERIES | AGGREGATES | STORED | REPORTS)
# Numbers that count or name something.
UNITLESS = [
    "id", "phase", "csq", "narrow_csq", "emnify_id", "event_type", "event_set", "record_count",
    "missing_count", "expected_count", "actual_count",
    "register_intervals", "present_intervals", "changes", "version", "oldest_gateway",
    "size", "rows_read", "tried", "calls", "rows", "bytes",
]  # fmt: skip

# The roles of callers, and those whose rights every role inherits.
CALLERS = "array['public', 'flows', 'public_backend', 'resident', 'grafanareader', 'authenticator']"
OURS = "array['flows', 'api', 'gateway']::regnamespace[]"
GRANTED = f"""
    exists (
        select from unnest({CALLERS}) as caller
        where has_table_privilege(
            caller, c.oid, 'select, insert, update, delete, truncate, references, trigger'
        ) or has_any_column_privilege(caller, c.oid, 'select, insert, update, references')
    )
"""
# Monitoring reads every row of every ESCO, in SQL too, and changes none.
GRANTED_BEYOND_MONITORING = f"""
    exists (
        select from unnest({CALLERS}) as caller
        where has_table_privilege(
            caller, c.oid,
            case caller when 'grafanareader' then '' else 'select, ' end
            || 'insert, update, delete, truncate, references, trigger'
        ) or has_any_column_privilege(
            caller, c.oid,
            case caller when 'grafanareader' then '' else 'select, ' end
            || 'insert, update, references'
        )
    )
"""
RELATIONS = f"""
    select c.oid, c.oid::regclass::text as name from pg_class as c
    where c.relnamespace = any({OURS}) and c.relkind in ('r', 'p', 'v', 'm', 'f')
        and not c.relispartition
"""
OPTION = """
    exists (
        select from pg_options_to_table(c.reloptions)
        where option_name = '{}' and option_value::boolean
    )
"""

RULES = {
    "a table has row level security, which its owner obeys too": """
        select c.oid::regclass::text from pg_class as c
        where c.relnamespace = any(array['flows', 'api']::regnamespace[])
            and c.relkind in ('r', 'p', 'm', 'f') and not c.relispartition
            and not (c.relrowsecurity and c.relforcerowsecurity) and c.relname <> all(%(series)s)
    """,
    "a view in api reads as its caller, or as the owner what has no row level security": f"""
        select c.oid::regclass::text from pg_class as c
        where c.relnamespace = 'api'::regnamespace and not {OPTION.format("security_invoker")}
            and (
                c.relkind <> 'v' or not {OPTION.format("security_barrier")}
                or pg_get_userbyid(c.relowner) <> 'flows_owner'
                or exists (
                    select from pg_rewrite as rule
                    join pg_depend as d on d.classid = 'pg_rewrite'::regclass and d.objid = rule.oid
                        and d.refclassid = 'pg_class'::regclass and d.refobjid <> c.oid
                    join pg_class as read on read.oid = d.refobjid
                    where rule.ev_class = c.oid and not (
                        read.relnamespace = 'flows'::regnamespace
                        and (
                            read.relname = any(%(series)s) or read.relname = 'escos'
                            or read.relkind = 'c'
                        )
                    )
                )
            )
    """,
    "what a row's owner decides is decided for tenants alone, and by one comparison": """
        select c.relname::text from pg_class as c
        join pg_attribute as a on a.attrelid = c.oid and a.attname = 'esco'
        where c.relnamespace = 'flows'::regnamespace and c.relrowsecurity
            and c.relname not in (
                'change', 'derived_register', 'former_service_head_meter',
                'former_properties_service_head'
            )
            and not exists (
                select from pg_policies as p
                where p.schemaname = 'flows' and p.tablename = c.relname
                    and p.roles = '{flows,public_backend}' and p.cmd = 'ALL'
                    and p.permissive = 'PERMISSIVE' and p.with_check is null and p.qual
                    = '(esco = ( SELECT flows.current_esco() AS current_esco))'
            )
        union all
        select p.tablename || ': ' || p.policyname from pg_policies as p
        where p.schemaname = 'flows' and p.permissive = 'PERMISSIVE'
            and p.roles && '{flows,public_backend,public}'
            and p.qual <> all(array[
                '(esco = ( SELECT flows.current_esco() AS current_esco))',
                '(id = ( SELECT flows.current_esco() AS current_esco))'
            ])
            and not (p.qual = 'true' and p.cmd = 'SELECT' and p.tablename in (
                'regions', 'meter_metrics', 'meter_event_log_type', 'bounds'
            ))
    """,
    # Row level security of flows.escos makes PostgreSQL plan again when the role changes.
    "a view that is planned for its caller reads what has row level security": """
        select c.oid::regclass::text from pg_class as c
        join pg_namespace as n on n.oid = c.relnamespace
        where c.relkind = 'v' and n.nspname in ('flows', 'api') and (
            pg_get_viewdef(c.oid) ~ 'is_planned_for_every_esco'
            or (n.nspname = 'api' and 'security_barrier=true' = any(c.reloptions))
        ) and pg_get_viewdef(c.oid) !~ 'is_planned_for_every_esco\\(\\) THEN true\\s+'
            '(WHEN flows.is_planned_for_a_resident\\(\\) THEN .*app.own_.*\\s+)?'
            'ELSE \\(?esco = \\( SELECT own.id\\s+FROM flows.escos own'
    """,
    "only views and policies ask what a plan is made for": f"""
        select p.oid::regprocedure::text from pg_proc as p
        where p.pronamespace = any({OURS}) and p.proname not in (
            'is_planned_for_every_esco', 'is_planned_for_a_resident', 'show_as_owned'
        ) and pg_get_functiondef(p.oid) ~ 'is_planned_for_(every_esco|a_resident)'
            and p.prokind <> 'a'
    """,
    "no function is executable by everybody": f"""
        select p.oid::regprocedure::text from pg_proc as p
        where p.pronamespace = any({OURS}) and has_function_privilege('public', p.oid, 'execute')
    """,
    "a function that runs as its owner has a search_path of its own": f"""
        select p.oid::regprocedure::text from pg_proc as p
        where p.pronamespace = any({OURS}) and p.prosecdef
            and not coalesce('search_path=""' = any(p.proconfig), false)
    """,
    "no caller but monitoring has a right on series, chunks, partitions and aggregates": f"""
        select c.oid::regclass::text from pg_class as c
        join pg_namespace as n on n.oid = c.relnamespace
        where c.relkind in ('r', 'p', 'v', 'm') and {GRANTED_BEYOND_MONITORING} and (
            (n.nspname = 'flows' and (c.relname = any(%(series)s) or c.relispartition))
            or (n.nspname = '_timescaledb_internal' and c.relname ~ '{{}}')
        )
    """.replace("{}", "^(_hyper_|_materialized_|compress_hyper_|_compressed_|_partial_|_direct_)"),
    "no caller has a right on a table of the gateway": f"""
        select c.oid::regclass::text from pg_class as c
        where c.relnamespace = 'gateway'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')
            and {GRANTED}
    """,
    "every relation has a comment": f"""
        select r.name from ({RELATIONS}) as r where obj_description(r.oid, 'pg_class') is null
    """,
    "every column has a comment": f"""
        select r.name || '.' || a.attname from ({RELATIONS}) as r
        join pg_attribute as a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
        where col_description(r.oid, a.attnum) is null
    """,
    "every function has a comment": f"""
        select p.oid::regprocedure::text from pg_proc as p
        where p.pronamespace = any({OURS}) and obj_description(p.oid, 'pg_proc') is null
    """,
    "a number's comment says its unit": f"""
        select r.name || '.' || a.attname || ': ' || col_description(r.oid, a.attnum)
        from ({RELATIONS}) as r
        join pg_attribute as a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
        join pg_type as t on t.oid = a.atttypid and t.typcategory = 'N'
        where a.attname <> all(%(unitless)s)
            and col_description(r.oid, a.attnum) !~ ', (kWh|kW|pounds|V|A|s|days|bytes)\\M'
    """,
}


def offenders(admin: Admin, rule: str) -> set[str]:
    """Return the objects that violate a rule."""
    admin.execute("reset role")
    names = {"series": SERIES, "unitless": UNITLESS}
    return {row[0] for row in admin.execute(RULES[rule], names)}


@pytest.mark.parametrize("rule", RULES)
def test_the_catalogue_keeps_the_rule(admin: Admin, rule: str) -> None:
    assert offenders(admin, rule) == set()


OFFENCES = [
    (
        "a table has row level security, which its owner obeys too",
        "create table flows.bad (id integer)",
        "flows.bad",
    ),
    (
        "a table has row level security, which its owner obeys too",
        "alter table flows.circuits no force row level security",
        "flows.circuits",
    ),
    (
        "a view in api reads as its caller, or as the owner what has no row level security",
        "create view api.bad as select * from flows.meter_registry",
        "api.bad",
    ),
    (
        "a view in api reads as its caller, or as the owner what has no row level security",
        "create view api.bad with (security_barrier) as select * from flows.meter_registry",
        "api.bad",
    ),
    (
        "a view in api reads as its caller, or as the owner what has no row level security",
        "create view api.bad with (security_barrier) as select * from flows.meter_voltage",
        "api.bad",  # a superuser's
    ),
    (
        "a view in api reads as its caller, or as the owner what has no row level security",
        "alter view api.circuits set (security_invoker = off)",
        "api.circuits",
    ),
    (
        "a view in api reads as its caller, or as the owner what has no row level security",
        "alter view api.register_interval_hh reset (security_barrier)",
        "api.register_interval_hh",
    ),
    (
        "what a row's owner decides is decided for tenants alone, and by one comparison",
        "create policy bad on flows.circuits using (site in (select id from flows.sites_new))",
        "circuits: bad",
    ),
    (
        "what a row's owner decides is decided for tenants alone, and by one comparison",
        'drop policy "an ESCO has its rows" on flows.circuits',
        "circuits",
    ),
    (
        "a view that is planned for its caller reads what has row level security",
        "create view flows.bad as select * from flows.meter_csq"
        " where flows.is_planned_for_every_esco() or esco = flows.current_esco()",
        "flows.bad",
    ),
    (
        "only views and policies ask what a plan is made for",
        "create function flows.bad() returns boolean language plpgsql"
        " as $$ begin return flows.is_planned_for_every_esco(); end $$",
        "flows.bad()",
    ),
    (
        "no function is executable by everybody",
        "grant execute on function flows.engine() to public",
        "flows.engine()",
    ),
    (
        "no function is executable by everybody",
        "create function gateway.bad() returns integer language sql return 1",
        "gateway.bad()",
    ),
    (
        "a function that runs as its owner has a search_path of its own",
        "alter function gateway.authorize() reset search_path",
        "gateway.authorize()",
    ),
    (
        "no caller but monitoring has a right on series, chunks, partitions and aggregates",
        "grant select on flows.register_interval_hh to public_backend",
        "flows.register_interval_hh",
    ),
    (
        "no caller but monitoring has a right on series, chunks, partitions and aggregates",
        "grant insert (voltage) on flows.meter_voltage to flows",
        "flows.meter_voltage",
    ),
    (
        "no caller but monitoring has a right on series, chunks, partitions and aggregates",
        "grant update (kwh) on flows.circuit_interval_hh to grafanareader",
        "flows.circuit_interval_hh",
    ),
    (
        "no caller but monitoring has a right on series, chunks, partitions and aggregates",
        "grant select on {part} to public",
        "{part}",
    ),
    (
        "no caller has a right on a table of the gateway",
        "grant update (name) on gateway.client to flows",
        "gateway.client",
    ),
    ("every relation has a comment", "comment on view api.escos is null", "api.escos"),
    ("every relation has a comment", "create table gateway.bad ()", "gateway.bad"),
    (
        "every column has a comment",
        "alter table flows.escos add column bad integer",
        "flows.escos.bad",
    ),
    ("every column has a comment", "comment on column api.escos.name is null", "api.escos.name"),
    (
        "every function has a comment",
        "comment on function flows.engine() is null",
        "flows.engine()",
    ),
    (
        "a number's comment says its unit",
        "comment on column flows.meter_voltage.voltage is 'Voltage.'",
        "flows.meter_voltage.voltage: Voltage.",
    ),
]


@pytest.mark.parametrize(("rule", "offence", "offender"), OFFENCES)
def test_an_offence_is_reported(
    admin: Admin, engine: str, rule: str, offence: str, offender: str
) -> None:
    if engine == "timescale":
        part = "select c::text from public.show_chunks('flows.register_interval_hh') as c limit 1"
    else:
        part = (
            "select min(inhrelid::regclass::text) from pg_inherits"
            " where inhparent = 'flows.register_interval_hh'::regclass"
        )
    (name,) = admin.execute(part).fetchone() or ("",)
    admin.execute(offence.replace("{part}", name))
    assert offender.replace("{part}", name) in offenders(admin, rule)


def test_every_rule_has_an_offence() -> None:
    assert {rule for rule, _, _ in OFFENCES} == set(RULES)


def test_every_relation_of_api_has_base_columns_in_the_document(admin: Admin) -> None:
    """A view named after no table must be declared in gateway.describe_api()."""
    ((described,),) = admin.execute("select gateway.describe_api()").fetchall()
    nullable = {
        name
        for name, facts in described["relations"].items()
        if not any(column["not_null"] for column in facts["columns"].values())
    }
    assert described["relations"]
    assert nullable == set()
