-- The owner in every row (docs/adr/0008-owner-in-every-row.md), first part: the columns, and owners for
-- configuration, which is small. Series are filled by 0006 while the gateway serves.
set local role flows_owner;

do $$
declare
    "table" text;
begin
    foreach "table" in array array[
        'properties', 'service_head_registry', 'meter_registers', 'meter_tophat_registry', 'meter_shadows',
        'circuits', 'service_head_meter', 'properties_service_head', 'circuit_register', 'register_extent',
        'register_import', 'register_export', 'register_interval_hh', 'meter_voltage', 'meter_3p_voltage',
        'meter_csq', 'meter_health_history', 'meter_prepay_balance', 'meter_event_log'
    ]
    loop
        execute format('alter table flows.%I add column esco uuid', "table");
    end loop;
end $$;

-- A row that has links to several ESCOs has no owner that can be told: it is named, and nothing is guessed.
-- Run again by 0007, for what was written meanwhile.
create function flows.fill_owners() returns void
language plpgsql set search_path = ''
as $$
declare
    conflicts text;
begin
    update flows.meter_registers as r set esco = m.esco
    from flows.meter_registry as m where r.meter_id = m.id and r.esco is distinct from m.esco;
    update flows.meter_tophat_registry as t set esco = m.esco
    from flows.meter_registry as m where t.meter = m.id and t.esco is distinct from m.esco;
    update flows.meter_shadows as s set esco = m.esco
    from flows.meter_registry as m where s.id = m.id and s.esco is distinct from m.esco;
    update flows.service_head_meter as l set esco = m.esco
    from flows.meter_registry as m where l.meter = m.id and l.esco is distinct from m.esco;
    update flows.circuit_register as c set esco = r.esco
    from flows.meter_registers as r where c.register = r.register_id and c.esco is distinct from r.esco;
    update flows.register_extent as e set esco = r.esco
    from flows.meter_registers as r where e.register_id = r.register_id and e.esco is distinct from r.esco;

    create temporary table owner_found (kind text, id uuid, esco uuid) on commit drop;
    insert into owner_found
    select 'service_head_registry', h.id, f.esco
    from flows.service_head_registry as h inner join flows.feeder_registry as f on h.feeder = f.id
    union
    select 'service_head_registry', l.service_head, l.esco from flows.service_head_meter as l where l.esco is not null
    union
    select 'circuits', c.id, s.esco
    from flows.circuits as c inner join flows.sites_new as s on c.site = s.id
    union
    select 'circuits', l.circuit, l.esco from flows.circuit_register as l where l.esco is not null
    union
    select 'properties', p.id, s.esco
    from flows.properties as p inner join flows.sites_new as s on p.site = s.id;
    insert into owner_found
    select 'properties', l.property, o.esco
    from flows.properties_service_head as l
    inner join owner_found as o on o.kind = 'service_head_registry' and l.service_head = o.id
    except
    select o.kind, o.id, o.esco from owner_found as o;

    conflicts := (
        select string_agg(format('%s %s: %s', c.kind, c.id, c.codes), '; ')
        from (
            select o.kind, o.id, string_agg(e.code, ', ' order by e.code) as codes
            from owner_found as o inner join flows.escos as e on o.esco = e.id
            group by o.kind, o.id
            having count(*) > 1
            order by o.kind, o.id
            limit 20
        ) as c
    );
    if conflicts is not null then
        raise exception 'a row has one owner, but these belong to several ESCOs, by their links: %', conflicts
            using hint = 'Remove or change the links that are wrong, and run it again.';
    end if;

    update flows.service_head_registry as t set esco = o.esco
    from owner_found as o where o.kind = 'service_head_registry' and t.id = o.id and t.esco is distinct from o.esco;
    update flows.circuits as t set esco = o.esco
    from owner_found as o where o.kind = 'circuits' and t.id = o.id and t.esco is distinct from o.esco;
    update flows.properties as t set esco = o.esco
    from owner_found as o where o.kind = 'properties' and t.id = o.id and t.esco is distinct from o.esco;
    update flows.properties_service_head as l set esco = h.esco
    from flows.service_head_registry as h where l.service_head = h.id and l.esco is distinct from h.esco;
    drop table owner_found;
end $$;

-- What is filled in is no change: nothing follows it, and no row's updated_at moves.
do $$
declare
    found record;
begin
    for found in
        select c.oid::regclass as relation
        from pg_catalog.pg_class as c
        where c.relnamespace = 'flows'::regnamespace and c.relname in (
            'properties', 'service_head_registry', 'meter_registers', 'meter_tophat_registry', 'meter_shadows',
            'circuits', 'service_head_meter', 'properties_service_head', 'circuit_register', 'register_extent'
        )
    loop
        execute format('alter table %s disable trigger user', found.relation);
    end loop;
    perform flows.fill_owners();
    for found in
        select c.oid::regclass as relation
        from pg_catalog.pg_class as c
        where c.relnamespace = 'flows'::regnamespace and c.relname in (
            'properties', 'service_head_registry', 'meter_registers', 'meter_tophat_registry', 'meter_shadows',
            'circuits', 'service_head_meter', 'properties_service_head', 'circuit_register', 'register_extent'
        )
    loop
        execute format('alter table %s enable trigger user', found.relation);
    end loop;
    -- 0006 fills the series while others write: their triggers stay, and pass by its session alone.
    for found in
        select t.tgname as name, t.tgrelid::regclass as relation, pg_catalog.pg_get_triggerdef(t.oid) as definition
        from pg_catalog.pg_trigger as t
        inner join pg_catalog.pg_class as c on t.tgrelid = c.oid
        inner join pg_catalog.pg_proc as f on t.tgfoid = f.oid
        where c.relnamespace = 'flows'::regnamespace and f.pronamespace = 'flows'::regnamespace
            and c.relname in ('register_import', 'register_export', 'register_interval_hh')
            and not t.tgisinternal and t.tgparentid = 0 and t.tgtype & 16 <> 0
    loop
        execute format('drop trigger %I on %s', found.name, found.relation);
        execute regexp_replace(
            found.definition, ' EXECUTE FUNCTION ',
            ' WHEN (current_setting(''flows.filling'', true) is distinct from ''on'') EXECUTE FUNCTION '
        );
    end loop;
end $$;

-- Rows that arrive from now on have their owner.
create function flows.stamp_register_series() returns trigger
language plpgsql set search_path = ''
as $$
begin
    new.esco := (select r.esco from flows.meter_registers as r where r.register_id = new.register_id);
    return new;
end $$;
create function flows.stamp_meter_series() returns trigger
language plpgsql set search_path = ''
as $$
begin
    new.esco := (select m.esco from flows.meter_registry as m where m.id = new.meter_id);
    return new;
end $$;
do $$
declare
    series text;
begin
    foreach series in array array['register_import', 'register_export', 'register_interval_hh'] loop
        execute format(
            'create trigger a_caller_owns_the_parent before insert on flows.%I '
            'for each row execute function flows.stamp_register_series()', series
        );
    end loop;
    foreach series in array array[
        'meter_voltage', 'meter_3p_voltage', 'meter_csq', 'meter_health_history', 'meter_prepay_balance',
        'meter_event_log'
    ]
    loop
        execute format(
            'create trigger a_caller_owns_the_parent before insert on flows.%I '
            'for each row execute function flows.stamp_meter_series()', series
        );
    end loop;
end $$;
grant execute on function flows.stamp_register_series(), flows.stamp_meter_series() to flows, tsdbadmin;

reset role;
