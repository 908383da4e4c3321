-- migrate:up
set local role flows_owner;

create table flows.circuit_interval_hh (
    circuit_id uuid not null,
    "timestamp" timestamptz not null,
    total_import_kwh numeric,
    total_export_kwh numeric,
    register_intervals bigint,
    meters uuid[],
    updated_at timestamptz,
    primary key (circuit_id, "timestamp")
);
select flows.make_time_series('circuit_interval_hh');
create table flows.circuit_interval_daily (
    circuit_id uuid not null,
    day timestamptz not null,
    total_import_kwh numeric,
    total_export_kwh numeric,
    register_intervals numeric,
    present_intervals bigint,
    meters uuid[],
    updated_at timestamptz,
    primary key (circuit_id, day)
);
create table flows.circuit_interval_daily_london (like flows.circuit_interval_daily including all);
create table flows.circuit_interval_monthly (like flows.circuit_interval_daily including all);
alter table flows.circuit_interval_monthly rename column day to month;
alter table flows.circuit_interval_monthly alter column present_intervals type numeric;

create type flows.circuit_half_hour as (circuit_id uuid, "timestamp" timestamptz);

-- Each level is made again from the one below, for the changed keys alone. The circuits are locked
-- first, in order (a thousand locks at most, so that no statement exhausts the lock table): who waited
-- for one sums, with a new snapshot, what the other had committed.
create function flows.recompute(changed flows.circuit_half_hour[]) returns void
language plpgsql set search_path = ''
as $$
declare
    level record;
begin
    perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('flows.recompute'), stripe)
    from (
        select distinct pg_catalog.hashtext(c.circuit_id::text) & 1023 as stripe
        from unnest(changed) as c order by 1
    ) as locked;

    with fresh as (
        select
            c.circuit_id,
            c."timestamp",
            sum(reading.import_kwh) as total_import_kwh,
            sum(reading.export_kwh) as total_export_kwh,
            count(reading.register_id) as register_intervals,
            array_agg(distinct register.meter_id) filter (where register.meter_id is not null) as meters
        from (select distinct u.circuit_id, u."timestamp" from unnest(changed) as u) as c
        left join flows.circuit_register as mapping
            on c.circuit_id = mapping.circuit and c."timestamp" >= mapping.start_time
            and (c."timestamp" < mapping.end_time or mapping.end_time is null)
        left join flows.register_interval_hh as reading
            on mapping.register = reading.register_id and c."timestamp" = reading."timestamp"
        left join flows.meter_registers as register on reading.register_id = register.register_id
        group by 1, 2
    ), emptied as (
        delete from flows.circuit_interval_hh as kept using fresh
        where kept.circuit_id = fresh.circuit_id and kept."timestamp" = fresh."timestamp"
            and fresh.register_intervals = 0
    )
    insert into flows.circuit_interval_hh as kept
    select fresh.*, now() from fresh where fresh.register_intervals > 0
    on conflict (circuit_id, "timestamp") do update set
        total_import_kwh = excluded.total_import_kwh,
        total_export_kwh = excluded.total_export_kwh,
        register_intervals = excluded.register_intervals,
        meters = excluded.meters,
        updated_at = excluded.updated_at;

    for level in
        select * from (values
            (1, 'circuit_interval_daily', 'day', 'circuit_interval_hh', 'timestamp', 'UTC', 'count(below.circuit_id)'),
            (2, 'circuit_interval_daily_london', 'day', 'circuit_interval_hh', 'timestamp', 'Europe/London',
                'count(below.circuit_id)'),
            (3, 'circuit_interval_monthly', 'month', 'circuit_interval_daily', 'day', 'UTC',
                'sum(below.present_intervals)')
        ) as l (position, name, unit, below, below_label, zone, present) order by position
    loop
        execute format(
            $sql$
            with fresh as (
                select
                    c.circuit_id,
                    c.label,
                    sum(below.total_import_kwh) as total_import_kwh,
                    sum(below.total_export_kwh) as total_export_kwh,
                    coalesce(sum(below.register_intervals), 0) as register_intervals,
                    %5$s as present_intervals,
                    array(
                        select distinct meter from unnest(string_to_array(
                            string_agg(distinct array_to_string(below.meters, ','), ','), ','
                        )::uuid[]) as meter order by meter
                    ) as meters
                from (
                    select distinct u.circuit_id, date_trunc(%2$L, u."timestamp", %6$L) as label
                    from unnest($1) as u
                ) as c
                left join flows.%3$I as below
                    on c.circuit_id = below.circuit_id and below.%4$I >= c.label
                    and below.%4$I < date_add(c.label, %7$L::interval, %6$L)
                group by 1, 2
            ), emptied as (
                delete from flows.%1$I as kept using fresh
                where kept.circuit_id = fresh.circuit_id and kept.%2$I = fresh.label
                    and fresh.register_intervals = 0
            )
            insert into flows.%1$I as kept
            select fresh.*, now() from fresh where fresh.register_intervals > 0
            on conflict (circuit_id, %2$I) do update set
                total_import_kwh = excluded.total_import_kwh,
                total_export_kwh = excluded.total_export_kwh,
                register_intervals = excluded.register_intervals,
                present_intervals = excluded.present_intervals,
                meters = excluded.meters,
                updated_at = excluded.updated_at
            $sql$,
            level.name, level.unit, level.below, level.below_label, level.present, level.zone, '1 ' || level.unit
        ) using changed;
    end loop;
end $$;
comment on function flows.recompute(flows.circuit_half_hour[])
is 'Makes the aggregates of the named half-hours again, at every level.';

-- The mapping must not change between a reading and its sum: readings take this lock together, a
-- change of the mapping takes it alone.
create function flows.lock_mapping() returns trigger
language plpgsql set search_path = ''
as $$
begin
    perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('flows.circuit_register'));
    return null;
end $$;
comment on function flows.lock_mapping() is 'Keeps readings out while the circuit mapping changes.';
create trigger a_mapping_changes_alone before insert or update or delete on flows.circuit_register
for each statement execute function flows.lock_mapping();

create function flows.follow_readings(changed flows.register_half_hour[]) returns void
language plpgsql set search_path = ''
as $$
begin
    perform pg_catalog.pg_advisory_xact_lock_shared(pg_catalog.hashtext('flows.circuit_register'));
    perform flows.recompute(array(
        select (mapping.circuit, c."timestamp")::flows.circuit_half_hour
        from unnest(changed) as c
        inner join flows.circuit_register as mapping
            on c.register_id = mapping.register and c."timestamp" >= mapping.start_time
            and (c."timestamp" < mapping.end_time or mapping.end_time is null)
    ));
    perform flows.note_readings(changed, true);
end $$;
comment on function flows.follow_readings(flows.register_half_hour[])
is 'Brings the aggregates behind changed half-hours.';

create function flows.follow_mapping(circuits uuid[], registers uuid[], spans tstzmultirange) returns void
language plpgsql set search_path = ''
as $$
begin
    perform flows.recompute(array(
        select distinct (circuit, reading."timestamp")::flows.circuit_half_hour
        from unnest(spans) as span
        inner join flows.register_interval_hh as reading
            on reading."timestamp" >= lower(span) and reading."timestamp" < coalesce(upper(span), 'infinity')
        cross join unnest(circuits) as circuit
        where reading.register_id = any(registers)
    ));
    perform flows.note_mapping(circuits, registers, spans, true);
end $$;
comment on function flows.follow_mapping(uuid[], uuid[], tstzmultirange)
is 'Brings the aggregates of circuits behind registers that moved between them.';

create procedure flows.follow()
language sql set search_path = ''
begin atomic
end;
comment on procedure flows.follow ()
is 'Nothing is left to do here: the aggregates follow within each statement.';

reset role;

-- migrate:down
