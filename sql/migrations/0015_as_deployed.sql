-- What existing deployments have: columns that may be empty, wider values, energy as one figure (kwh), and names
-- of types that casts in their scripts use.
set local role flows_owner;

alter table flows.escos alter column code drop not null, alter column name drop not null;
alter table flows.properties alter column plot drop not null;
alter table flows.meter_registry
alter column serial drop not null, alter column name drop not null, alter column mode drop not null;
alter table flows.meter_registers alter column status drop not null;
alter table flows.register_import alter column read drop not null;
alter table flows.register_export alter column read drop not null;

-- 99 and -1 stand for an unknown signal.
alter table flows.meter_shadows drop constraint meter_shadows_csq_check;
alter table flows.meter_csq drop constraint meter_csq_csq_check;

-- Meters with a lost clock log events of 1970.
alter table flows.meter_event_log drop constraint the_time_is_between_2000_and_2100;
alter table flows.meter_event_log add constraint the_time_is_between_1900_and_2100
check ("timestamp" >= '1900-01-01 00:00Z' and "timestamp" < '2100-01-01 00:00Z');

-- Gateways that run meanwhile go on reading and writing shadows: the view stays, and so does what their updates
-- append, but for the reason of a change of health, which sql/objects brings back.
do $$
declare
    shown text := (
        select string_agg(quote_ident(a.attname), ', ' order by a.attnum) from pg_catalog.pg_attribute as a
        where a.attrelid = to_regclass('api.meter_shadows') and a.attnum > 0 and not a.attisdropped
    );
begin
    drop view if exists api.meter_shadows;
    alter table flows.meter_shadows alter column health_details type text using case
        when jsonb_typeof(health_details) = 'string' then health_details #>> '{}' else health_details::text
    end;
    if shown is not null then
        execute format(
            'create view api.meter_shadows with (security_invoker = true) as select %s from flows.meter_shadows', shown
        );
        grant select on api.meter_shadows to flows, public_backend, grafanareader, tsdbadmin;
        grant insert, update on api.meter_shadows to flows;
    end if;
    if to_regprocedure('flows.append_from_shadow()') is not null then
        execute replace(
            pg_catalog.pg_get_functiondef('flows.append_from_shadow()'::regprocedure),
            'new.health_details #>> ''{reason}''', 'null'
        );
    end if;
end $$;

alter table flows.register_interval_hh add column kwh numeric;

-- As in sql/objects/079_energy.sql: what is written from now on has it, 0016 fills what is there.
create function flows.keep_kwh() returns trigger
language plpgsql set search_path = ''
as $$
begin
    new.kwh := coalesce(new.import_kwh + new.export_kwh, new.import_kwh, new.export_kwh);
    return new;
end $$;
create trigger kwh_is_the_sum before insert or update on flows.register_interval_hh
for each row execute function flows.keep_kwh();

create domain flows.circuit_type_enum as text;
create domain flows.emnify_device_connectivity_status_enum as text;
create domain flows.emnify_device_installation_status_enum as text;
create domain flows.health_check_status as text;
create domain flows.meter_metric_run_frequency_enum as text;
create domain flows.meter_mode_enum as text;
create domain flows.meter_register_element as text;
create domain flows.meter_register_status_enum as text;
create domain flows.register_nature_enum as text;

-- Filling by 0016 is no change: nothing follows it, and no row's updated_at moves.
do $$
declare
    found record;
begin
    for found in
        select t.tgname as name, t.tgrelid::regclass as relation, pg_catalog.pg_get_triggerdef(t.oid) as definition
        from pg_catalog.pg_trigger as t
        where t.tgrelid = 'flows.register_interval_hh'::regclass and t.tgqual is null and t.tgparentid = 0
            and t.tgname in ('updated_at_moves', 'aggregates_follow_changed')
    loop
        execute format('drop trigger %I on %s', found.name, found.relation);
        execute regexp_replace(
            found.definition, ' EXECUTE FUNCTION ',
            ' WHEN (current_setting(''flows.filling'', true) is distinct from ''on'') EXECUTE FUNCTION '
        );
    end loop;
end $$;

-- A chunk, or some pages, in each transaction, so that others wait for no more than that.
do $$
begin
    if exists (select from pg_catalog.pg_extension where extname = 'timescaledb') then
        execute $create$
            create procedure flows.fill_kwh()
            language plpgsql
            as $procedure$
            declare
                chunk record;
                missing boolean;
            begin
                for chunk in
                    select format('%I.%I', c.chunk_schema, c.chunk_name)::regclass as relation, c.is_compressed
                    from timescaledb_information.chunks as c
                    where c.hypertable_schema = 'flows' and c.hypertable_name = 'register_interval_hh'
                    order by c.range_start desc
                loop
                    execute format(
                        'select exists (select from %s where kwh is null '
                        'and (import_kwh is not null or export_kwh is not null))', chunk.relation
                    ) into missing;
                    continue when not missing;
                    perform pg_catalog.set_config('flows.filling', 'on', true);
                    if chunk.is_compressed then
                        perform public.decompress_chunk(chunk.relation);
                    end if;
                    execute format(
                        'update %s set kwh = coalesce(import_kwh + export_kwh, import_kwh, export_kwh) '
                        'where kwh is null and (import_kwh is not null or export_kwh is not null)', chunk.relation
                    );
                    if chunk.is_compressed then
                        perform public.compress_chunk(chunk.relation);
                    end if;
                    commit;
                end loop;
            end $procedure$
        $create$;
    else
        execute $create$
            create procedure flows.fill_kwh()
            language plpgsql
            as $procedure$
            declare
                batch constant integer := 1000;
                part record;
                page bigint;
            begin
                for part in
                    select
                        c.oid::regclass as relation,
                        pg_catalog.pg_relation_size(c.oid) / current_setting('block_size')::integer as pages
                    from pg_catalog.pg_class as c
                    left join pg_catalog.pg_inherits as i on c.oid = i.inhrelid
                    where c.relkind = 'r'
                        and coalesce(i.inhparent, c.oid) = 'flows.register_interval_hh'::regclass
                loop
                    page := 0;
                    -- A row that is changed goes to the end: the pages that were there hold what is left.
                    while page < part.pages loop
                        perform pg_catalog.set_config('flows.filling', 'on', true);
                        execute format(
                            'update %s set kwh = coalesce(import_kwh + export_kwh, import_kwh, export_kwh) '
                            'where kwh is null and (import_kwh is not null or export_kwh is not null) '
                            'and ctid >= $1 and ctid < $2', part.relation
                        ) using format('(%s,0)', page)::tid, format('(%s,0)', page + batch)::tid;
                        commit;
                        page := page + batch;
                    end loop;
                end loop;
            end $procedure$
        $create$;
    end if;
end $$;

reset role;
