set local role flows_owner;

-- A row gets its owner from its parents, in the order they are named here ("column table key"): from the first
-- that there is; the others must have the same owner, or get it where they have none yet. A parent that the caller
-- cannot see is refused as one that does not exist, before any key of the row is looked at. Each table has a function
-- of its own, which keeps its plans: to plan anew took most of the time of a row.
do $$
declare
    stamped record;
begin
    for stamped in
        select s.name, string_agg(quote_ident(p.parent[1]), ', ' order by p.position) as columns, string_agg(
            format(
                $parent$
                if new.%1$I is not null then
                    select p.esco into owner from flows.%2$I as p where p.%3$I = new.%1$I;
                    if not found then
                        -- Else the foreign key says so.
                        if tenant then
                            raise insufficient_privilege using message = format(
                                'new row violates row-level security policy for table "%%s"', tg_table_name
                            );
                        end if;
                    elsif first then
                        new.esco := owner;
                        first := false;
                    elsif owner is null and new.esco is not null then
                        update flows.%2$I as p set esco = new.esco where p.%3$I = new.%1$I and p.esco is null;
                    end if;
                end if;
                $parent$,
                p.parent[1], p.parent[2], p.parent[3]
            ), '' order by p.position
        ) as parents
        from (values
            ('properties', '{site sites_new id}'::text[]),
            ('service_head_registry', '{feeder feeder_registry id}'),
            ('meter_registers', '{meter_id meter_registry id}'),
            ('meter_tophat_registry', '{meter meter_registry id}'),
            ('meter_shadows', '{id meter_registry id}'),
            ('circuits', '{site sites_new id}'),
            ('register_extent', '{register_id meter_registers register_id}'),
            ('derived_register', '{register_id meter_registers register_id}'),
            ('service_head_meter', '{meter meter_registry id, service_head service_head_registry id}'),
            ('properties_service_head', '{service_head service_head_registry id, property properties id}'),
            ('circuit_register', '{register meter_registers register_id, circuit circuits id}')
        ) as s (name, parents)
        cross join lateral (
            select string_to_array(u.named, ' ') as parent, u.position
            from unnest(s.parents) with ordinality as u (named, position)
        ) as p
        group by s.name
    loop
        execute format(
            $create$
            create or replace function flows.stamp_owner_of_%1$s() returns trigger
            language plpgsql set search_path = ''
            as $function$
            declare
                tenant constant boolean := not flows.sees_every_esco();
                owner uuid;
                first boolean := true;
            begin
                if tenant then
                    new.esco := flows.current_esco();
                end if;
                %2$s
                return new;
            end $function$
            $create$,
            stamped.name, stamped.parents
        );
        execute format(
            'comment on function flows.stamp_owner_of_%s() is %L', stamped.name,
            'A row of ' || stamped.name || ' has the owner of its parents.'
        );
        execute format('grant execute on function flows.stamp_owner_of_%s() to flows, tsdbadmin', stamped.name);
        execute format(
            'create trigger a_caller_owns_the_parents before insert or update of %1$s, esco on flows.%2$I '
            'for each row execute function flows.stamp_owner_of_%2$s()',
            stamped.columns, stamped.name
        );
    end loop;
end $$;

-- The series: the same, by one look at the parent's key. A row keeps the owner it was written under, so an
-- administrator's may name an earlier one.
-- Two functions that are alike: one that chooses the table costs a tenth more for each row.
create or replace function flows.stamp_register_series() returns trigger
language plpgsql
as $$
declare
    owner uuid;
begin
    select r.esco into owner from flows.meter_registers as r where r.register_id = new.register_id;
    if not found and not flows.sees_every_esco() then
        raise with_check_option_violation using
            message = format('new row violates check option for view "%s"', tg_argv[0]);
    end if;
    new.esco := owner;
    return new;
end $$;
comment on function flows.stamp_register_series() is 'A row of a series has the owner of its register.';
create or replace function flows.stamp_meter_series() returns trigger
language plpgsql
as $$
declare
    owner uuid;
begin
    select m.esco into owner from flows.meter_registry as m where m.id = new.meter_id;
    if not found and not flows.sees_every_esco() then
        raise with_check_option_violation using
            message = format('new row violates check option for view "%s"', tg_argv[0]);
    end if;
    new.esco := owner;
    return new;
end $$;
comment on function flows.stamp_meter_series() is 'A row of a series has the owner of its meter.';
do $$
declare
    series record;
begin
    for series in
        select s.name, s.key, replace(s.key, '_id', '') as parent from flows.series() as s
        where s.key in ('register_id', 'meter_id')
    loop
        -- A half-hour gets all that it lacks from one function (079_energy.sql).
        if series.name <> 'register_interval_hh' then
            execute format(
                'create trigger a_caller_owns_the_parent before insert on flows.%1$I for each row '
                'when (new.esco is null) execute function flows.stamp_%2$s_series(%1$L)', series.name, series.parent
            );
        end if;
        execute format(
            'create trigger a_caller_owns_the_new_parent before update of %3$I on flows.%1$I for each row '
            'when (new.%3$I is distinct from old.%3$I) execute function flows.stamp_%2$s_series(%1$L)',
            series.name, series.parent, series.key
        );
    end loop;
end $$;

-- A meter that nobody owned takes its history along to its first owner; one that moves from one ESCO to another
-- leaves its history there.
create or replace function flows.find_an_owner() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    child record;
begin
    for child in
        select * from (values
            ('meter_registry', 'meter_registers', 'meter_id', 'id'),
            ('meter_registry', 'meter_tophat_registry', 'meter', 'id'),
            ('meter_registry', 'meter_shadows', 'id', 'id'),
            ('meter_registry', 'service_head_meter', 'meter', 'id'),
            ('meter_registers', 'circuit_register', 'register', 'register_id'),
            ('meter_registers', 'register_extent', 'register_id', 'register_id'),
            ('meter_registers', 'derived_register', 'register_id', 'register_id'),
            ('service_head_registry', 'properties_service_head', 'service_head', 'id')
        ) as c (parent, name, key, parent_key) where c.parent = tg_table_name
        union all
        select case s.key when 'meter_id' then 'meter_registry' else 'meter_registers' end, s.name, s.key,
            case s.key when 'meter_id' then 'id' else 'register_id' end
        from flows.series() as s
        where tg_table_name = case s.key when 'meter_id' then 'meter_registry' when 'register_id' then 'meter_registers' end
    loop
        execute format(
            'update flows.%1$I set esco = ($1).esco where %2$I = ($1).%3$I and esco is null',
            child.name, child.key, child.parent_key
        ) using new;
    end loop;
    return null;
end $$;
comment on function flows.find_an_owner()
is 'Gives the rows of a meter, a register or a service head its first owner.';
do $$
declare
    owned text;
begin
    foreach owned in array array['meter_registry', 'meter_registers', 'service_head_registry'] loop
        execute format(
            'create trigger the_first_owner_takes_the_history after update of esco on flows.%I '
            'for each row when (old.esco is null and new.esco is not null) execute function flows.find_an_owner()',
            owned
        );
    end loop;
end $$;
grant execute on function flows.stamp_register_series(), flows.stamp_meter_series() to flows, tsdbadmin;

-- A relation without row level security (TimescaleDB has none beside the columnstore) is shown by a view that
-- reads as its owner, and shows what is the caller's, without the column that says so, and what is unused. Of that,
-- residents see the rows that fulfil a condition: by default that of a series of this name (flows.own_rows).
drop procedure if exists flows.show_as_owned(text, boolean);
create or replace procedure flows.show_as_owned(
    relation text, writable boolean default false, residents text default null
)
language plpgsql set search_path = ''
as $$
begin
    execute format(
        'create view api.%1$I with (security_barrier = true) as select %2$s from flows.%1$I '
        'where case when flows.is_planned_for_every_esco() then true '
        'when flows.is_planned_for_a_resident() then %4$s '
        'and esco is not distinct from (select flows.current_esco()) '
        'else esco = (select own.id from flows.escos as own where own.id = flows.current_esco()) end%3$s',
        relation,
        (
            select string_agg(quote_ident(a.attname), ', ' order by a.attnum) from pg_catalog.pg_attribute as a
            where a.attrelid = format('flows.%I', relation)::regclass and a.attnum > 0 and not a.attisdropped
                and a.attname not in ('esco', 'narrow_csq')
        ),
        case when writable then ' with check option' else '' end,
        flows.expand_own(coalesce(
            residents,
            (
                select flows.own_rows(s.key, quote_ident(s.label), u.unit, u.zone)
                from flows.series() as s cross join lateral flows.unit_of(s.name) as u where s.name = relation
            )
        ))
    );
    execute format('grant select on api.%I to flows, public_backend, resident, grafanareader, tsdbadmin', relation);
    if writable then
        execute format('grant insert, update, delete on api.%I to flows', relation);
        execute format('grant select, insert, update, delete on flows.%I to tsdbadmin', relation);
    end if;
end $$;
comment on procedure flows.show_as_owned (text, boolean, text)
is 'Makes the view of api that shows a caller''s rows of a relation.';

reset role;
