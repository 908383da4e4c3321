-- The wide signal takes the name. The narrow one stays, unused: chunks that are made after a hypertable lost a column
-- number theirs otherwise, and TimescaleDB (2.29.2) asks conditions of triggers and views by the table's numbers.
-- Gateways that run meanwhile go on: what shows the column is dropped, and stands again at the end, over the wide one,
-- until sql/objects brings its own.
set local role flows_owner;

drop procedure flows.fill_wide_csq();
drop function flows.widen_csq() cascade;

do $$
declare
    callers constant oid[] := array(
        select r.oid from pg_catalog.pg_roles as r
        where r.rolname in ('flows', 'public_backend', 'grafanareader', 'tsdbadmin')
    );
    again text[];
    statement text;
begin
    with recursive changed as (
        select a.attrelid as relation, a.attnum as number from pg_catalog.pg_attribute as a
        where a.attrelid in ('flows.meter_csq'::regclass, 'flows.meter_shadows'::regclass) and a.attname = 'csq'
    ), shown (relation, depth) as (
        select rule.ev_class, 1
        from changed as c
        inner join pg_catalog.pg_depend as d
            on d.refclassid = 'pg_catalog.pg_class'::regclass and c.relation = d.refobjid and c.number = d.refobjsubid
        inner join pg_catalog.pg_rewrite as rule on d.classid = 'pg_catalog.pg_rewrite'::regclass and d.objid = rule.oid
        union
        select rule.ev_class, s.depth + 1
        from shown as s
        inner join pg_catalog.pg_depend as d
            on d.refclassid = 'pg_catalog.pg_class'::regclass and s.relation = d.refobjid
        inner join pg_catalog.pg_rewrite as rule on d.classid = 'pg_catalog.pg_rewrite'::regclass and d.objid = rule.oid
        where rule.ev_class <> s.relation
    ), views as (
        select c.oid as id, c.relname as name, c.relacl, c.reloptions, max(s.depth) as depth
        from shown as s
        inner join pg_catalog.pg_class as c on s.relation = c.oid
        where c.relkind = 'v' and c.relnamespace in ('flows'::regnamespace, 'api'::regnamespace)
        group by c.oid
    ), called (id, depth) as (
        select d.objid, 1
        from pg_catalog.pg_depend as d
        where d.classid = 'pg_catalog.pg_proc'::regclass and d.refclassid = 'pg_catalog.pg_class'::regclass and (
            d.refobjid in (select v.id from views as v)
            or (d.refobjid, d.refobjsubid) in (select c.relation, c.number from changed as c)
        )
        union
        select d.objid, c.depth + 1
        from called as c
        inner join pg_catalog.pg_depend as d
            on d.classid = 'pg_catalog.pg_proc'::regclass and d.refclassid = 'pg_catalog.pg_proc'::regclass
            and c.id = d.refobjid
    ), routines as (
        select p.oid as id, p.proacl, max(c.depth) as depth
        from called as c inner join pg_catalog.pg_proc as p on c.id = p.oid
        group by p.oid
    ), triggers as (
        select distinct t.oid as id, t.tgname as name, t.tgrelid::regclass as relation
        from changed as c
        inner join pg_catalog.pg_depend as d
            on d.refclassid = 'pg_catalog.pg_class'::regclass and c.relation = d.refobjid and c.number = d.refobjsubid
        inner join pg_catalog.pg_trigger as t on d.classid = 'pg_catalog.pg_trigger'::regclass and d.objid = t.oid
        where not t.tgisinternal
    ), parts as (
        select -2 as place, format('drop trigger %I on %s', t.name, t.relation) as statement from triggers as t
        union all
        select -1, format('drop routine %s', string_agg(r.id::regprocedure::text, ', ')) from routines as r
        having count(*) > 0
        union all
        select 0, format('drop view %s', string_agg(v.id::regclass::text, ', ')) from views as v having count(*) > 0
        union all
        select 1, 'alter table flows.meter_csq rename column csq to narrow_csq'
        union all
        select 2, 'alter table flows.meter_csq rename column wide_csq to csq'
        union all
        select 3, 'alter table flows.meter_shadows alter column csq type integer'
        union all
        select 3 + v.depth, format(
            'create view %s%s as %s', v.id::regclass, ' with (' || array_to_string(v.reloptions, ', ') || ')',
            pg_catalog.pg_get_viewdef(v.id)
        )
        from views as v
        union all
        select 100, format('grant %s on %s to %s', g.privilege_type, v.id::regclass, g.grantee::regrole)
        from views as v cross join pg_catalog.aclexplode(v.relacl) as g where g.grantee = any(callers)
        union all
        select 100 + r.depth, pg_catalog.pg_get_functiondef(r.id) from routines as r
        union all
        select 200, format('revoke all on routine %s from public', r.id::regprocedure) from routines as r
        union all
        select 201, format('grant %s on routine %s to %s', g.privilege_type, r.id::regprocedure, g.grantee::regrole)
        from routines as r cross join pg_catalog.aclexplode(r.proacl) as g where g.grantee = any(callers)
        union all
        select 202, pg_catalog.pg_get_triggerdef(t.id) from triggers as t
    )
    -- All are written before the first is dropped.
    select array_agg(p.statement order by p.place) into again from parts as p;
    foreach statement in array again loop
        execute statement;
    end loop;
end $$;

reset role;
