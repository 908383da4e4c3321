-- migrate:up
set local role flows_owner;

create table flows.circuit_interval_hh (
    circuit_id uuid not null,
    "timestamp" timestamptz not null,
    total_import_kwh numeric,
    total_export_kwh numeric,
    register_intervals bigint not null,
    primary key (circuit_id, "timestamp")
);
create table flows.circuit_interval_daily (
    circuit_id uuid not null,
    day timestamptz not null,
    total_import_kwh numeric,
    total_export_kwh numeric,
    register_intervals bigint not null,
    primary key (circuit_id, day)
);

-- What a change adds to both aggregates. Additions commute, so concurrent statements only wait for
-- each other's rows, and rows are taken in key order, so they do not wait in a circle.
create type flows.circuit_delta as (
    circuit_id uuid, "timestamp" timestamptz, import_kwh numeric, export_kwh numeric, intervals bigint
);
create function flows.add_to_aggregates(deltas flows.circuit_delta[]) returns void
language plpgsql set search_path = ''
as $$
begin
    insert into flows.circuit_interval_hh as total
    select d.circuit_id, d."timestamp", sum(d.import_kwh), sum(d.export_kwh), sum(d.intervals)
    from unnest(deltas) as d
    group by 1, 2
    order by 1, 2
    on conflict (circuit_id, "timestamp") do update set
        total_import_kwh = coalesce(total.total_import_kwh + excluded.total_import_kwh,
                                    total.total_import_kwh, excluded.total_import_kwh),
        total_export_kwh = coalesce(total.total_export_kwh + excluded.total_export_kwh,
                                    total.total_export_kwh, excluded.total_export_kwh),
        register_intervals = total.register_intervals + excluded.register_intervals;
    insert into flows.circuit_interval_daily as total
    select
        d.circuit_id, date_trunc('day', d."timestamp", 'UTC'),
        sum(d.import_kwh), sum(d.export_kwh), sum(d.intervals)
    from unnest(deltas) as d
    group by 1, 2
    order by 1, 2
    on conflict (circuit_id, day) do update set
        total_import_kwh = coalesce(total.total_import_kwh + excluded.total_import_kwh,
                                    total.total_import_kwh, excluded.total_import_kwh),
        total_export_kwh = coalesce(total.total_export_kwh + excluded.total_export_kwh,
                                    total.total_export_kwh, excluded.total_export_kwh),
        register_intervals = total.register_intervals + excluded.register_intervals;
end $$;
comment on function flows.add_to_aggregates(flows.circuit_delta[]) is 'Adds changes to the circuit aggregates.';

-- The mapping must not change between a reading and its sum: readings take this lock together, a
-- change of the mapping takes it alone.
create function flows.lock_mapping() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('flows.circuit_register'));
    return null;
end $$;
comment on function flows.lock_mapping() is 'Keeps readings out while the circuit mapping changes.';

create function flows.follow_readings() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    deltas flows.circuit_delta[];
begin
    perform pg_catalog.pg_advisory_xact_lock_shared(pg_catalog.hashtext('flows.circuit_register'));
    if tg_op = 'INSERT' then
        select array_agg((m.circuit, r."timestamp", r.import_kwh, r.export_kwh, 1)::flows.circuit_delta) into deltas
        from added as r inner join flows.circuit_register as m
            on r.register_id = m.register and r."timestamp" >= m.start_time
            and (r."timestamp" < m.end_time or m.end_time is null);
    elsif tg_op = 'DELETE' then
        select array_agg((m.circuit, r."timestamp", -r.import_kwh, -r.export_kwh, -1)::flows.circuit_delta) into deltas
        from removed as r inner join flows.circuit_register as m
            on r.register_id = m.register and r."timestamp" >= m.start_time
            and (r."timestamp" < m.end_time or m.end_time is null);
    else
        select array_agg((m.circuit, r."timestamp", r.import_kwh, r.export_kwh, r.sign)::flows.circuit_delta)
        into deltas
        from (
            select register_id, "timestamp", import_kwh, export_kwh, 1 as sign from added
            union all
            select register_id, "timestamp", -import_kwh, -export_kwh, -1 from removed
        ) as r inner join flows.circuit_register as m
            on r.register_id = m.register and r."timestamp" >= m.start_time
            and (r."timestamp" < m.end_time or m.end_time is null);
    end if;
    perform flows.add_to_aggregates(deltas);
    return null;
end $$;
comment on function flows.follow_readings() is 'Carries changed half-hours into the circuit aggregates.';

create function flows.follow_mapping() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    if tg_op <> 'INSERT' then
        perform flows.add_to_aggregates(array(
            select (old.circuit, r."timestamp", -r.import_kwh, -r.export_kwh, -1)::flows.circuit_delta
            from flows.register_interval_hh as r
            where r.register_id = old.register and r."timestamp" >= old.start_time
            and (r."timestamp" < old.end_time or old.end_time is null)
        ));
    end if;
    if tg_op <> 'DELETE' then
        perform flows.add_to_aggregates(array(
            select (new.circuit, r."timestamp", r.import_kwh, r.export_kwh, 1)::flows.circuit_delta
            from flows.register_interval_hh as r
            where r.register_id = new.register and r."timestamp" >= new.start_time
            and (r."timestamp" < new.end_time or new.end_time is null)
        ));
    end if;
    return null;
end $$;
comment on function flows.follow_mapping() is 'Moves half-hours between circuits when their mapping changes.';

create trigger aggregates_follow_new after insert on flows.register_interval_hh
referencing new table as added for each statement execute function flows.follow_readings();
create trigger aggregates_follow_changed after update on flows.register_interval_hh
referencing new table as added old table as removed for each statement execute function flows.follow_readings();
create trigger aggregates_follow_removed after delete on flows.register_interval_hh
referencing old table as removed for each statement execute function flows.follow_readings();
create trigger a_mapping_changes_alone before insert or update or delete on flows.circuit_register
for each statement execute function flows.lock_mapping();
create trigger aggregates_follow_the_mapping after insert or update or delete on flows.circuit_register
for each row execute function flows.follow_mapping();

reset role;

-- migrate:down
