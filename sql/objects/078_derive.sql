set local role flows_owner;
comment on table flows.derived_register
is 'Registers with derived half-hours: calculated from counter readings, or estimates of an import.';
comment on column flows.derived_register.register_id is 'The register.';
comment on column flows.derived_register.esco is 'ESCO of the register.';
alter table flows.derived_register enable row level security;
alter table flows.derived_register force row level security;
create policy "maintenance alone knows the derived registers" on flows.derived_register
to flows_owner, tsdbadmin using (current_user in ('flows_owner', 'tsdbadmin'));

-- A measured half-hour replaces a derived one, also in a plain INSERT. Rows are checked one by one only if
-- any register has derived half-hours, which each statement finds out once.
create or replace function flows.look_for_derived() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    perform pg_catalog.set_config(
        'flows.derived', case when exists (select from flows.derived_register) then 'on' else 'off' end, true
    );
    return null;
end $$;
comment on function flows.look_for_derived() is 'Records for the statement if any register has derived half-hours.';
create trigger a_statement_looks_for_derived_half_hours before insert on flows.register_interval_hh
for each statement execute function flows.look_for_derived();

create or replace function flows.give_way_to_a_measurement() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    if exists (select from flows.derived_register as d where d.register_id = new.register_id) then
        -- The half-hour is changed, not removed: the insert reports it, so this delete need not.
        perform pg_catalog.set_config('flows.replaced', 'on', true);
        delete from flows.register_interval_hh as derived
        where derived.register_id = new.register_id and derived."timestamp" = new."timestamp" and derived.derived;
        perform pg_catalog.set_config('flows.replaced', 'off', true);
    end if;
    return new;
end $$;
comment on function flows.give_way_to_a_measurement() is 'Removes a derived half-hour in favour of a measured one.';
create trigger measurement_replaces_a_derived_half_hour before insert on flows.register_interval_hh
for each row when (not new.derived and current_setting('flows.derived', true) = 'on')
execute function flows.give_way_to_a_measurement();

-- The energy counted up to each half-hour's start, from the reads of one counter, interpolated linearly
-- between reads that are close enough to each other. A read below the previous one is a roll-over if the
-- counter was in the last tenth of its range (five digits or more) and restarted in the first. Otherwise
-- the counter was replaced, and the energy between is unknown. `chain` numbers the runs of reads that
-- can be compared.
create or replace function flows.counted_at_half_hours(
    register uuid, direction text, period_from timestamptz, period_to timestamptz, max_gap interval
) returns table ("timestamp" timestamptz, chain bigint, counted numeric)
language sql stable set search_path = ''
begin atomic
    with reads as (
        select r."timestamp", r.read from flows.register_import as r
        where direction = 'import' and r.register_id = register and r.read is not null
            and r."timestamp" >= period_from - max_gap and r."timestamp" <= period_to + max_gap
        union all
        select r."timestamp", r.read from flows.register_export as r
        where direction = 'export' and r.register_id = register and r.read is not null
            and r."timestamp" >= period_from - max_gap and r."timestamp" <= period_to + max_gap
    ), steps as (
        select
            r."timestamp", r.read,
            lag(r."timestamp") over by_time as before_at,
            lag(r.read) over by_time as before_read,
            power(10::numeric, greatest(length(trunc(lag(r.read) over by_time)::text), 5)) as full_scale
        from reads as r window by_time as (order by r."timestamp")
    ), grown as (
        select
            s."timestamp", s.before_at,
            case
                when s.read >= s.before_read then s.read - s.before_read
                when s.before_read >= 0.9 * s.full_scale and s.read < 0.1 * s.full_scale
                    then s.full_scale - s.before_read + s.read
            end as energy
        from steps as s
    ), chained as (
        select
            g."timestamp", g.before_at, g.energy,
            count(*) filter (where g.energy is null or g."timestamp" - g.before_at > max_gap) over up_to as chain,
            coalesce(sum(g.energy) over up_to, 0) as counted
        from grown as g window up_to as (order by g."timestamp")
    ), half_hours as (
        select t as "timestamp" from generate_series(
            to_timestamp(ceil(extract(epoch from period_from) / 1800) * 1800), period_to, interval '30 minutes'
        ) as t
    )
    select
        h."timestamp",
        c.chain,
        c.counted - c.energy * extract(epoch from c."timestamp" - h."timestamp")
        / extract(epoch from c."timestamp" - c.before_at)
    from half_hours as h
    inner join chained as c
        on c.before_at < h."timestamp" and h."timestamp" <= c."timestamp"
        and c.energy is not null and c."timestamp" - c.before_at <= max_gap
    union all
    -- The first read of a chain may itself be on a half-hour.
    select c."timestamp", c.chain, c.counted
    from chained as c
    inner join half_hours as h on c."timestamp" = h."timestamp"
    where c.energy is null or c."timestamp" - c.before_at > max_gap;
end;
comment on function flows.counted_at_half_hours(uuid, text, timestamptz, timestamptz, interval)
is 'Energy counted up to each half-hour, kWh, from the reads of one counter of a register.';

create or replace function flows.derive_interval_hh(
    register uuid, period_from timestamptz, period_to timestamptz, max_gap interval default '2 hours'
) returns integer
language plpgsql security definer set search_path = ''
as $$
declare
    reversed boolean := (select r.direction_reversed from flows.meter_registers as r where r.register_id = register);
    -- Energy that nobody would believe is a counter that was replaced or misread: what flowed is unknown.
    largest numeric := (select b.largest_kwh from flows.energy_bound(register) as b);
    written integer;
begin
    insert into flows.register_interval_hh as kept (register_id, "timestamp", import_kwh, export_kwh, kwh, derived)
    select
        register, "timestamp",
        case when reversed then d.export else d.import end,
        case when reversed then d.import else d.export end,
        coalesce(d.import + d.export, d.import, d.export),
        true
    from (
        select
            "timestamp",
            max(energy) filter (where direction = 'import') as import,
            max(energy) filter (where direction = 'export') as export
        from (
            select
                direction, c."timestamp",
                round(lead(c.counted) over next - c.counted, 6) as energy,
                lead(c.chain) over next = c.chain
                and lead(c."timestamp") over next = c."timestamp" + interval '30 minutes' as known
            from unnest(array['import', 'export']) as direction
            cross join flows.counted_at_half_hours(register, direction, period_from, period_to, max_gap) as c
            window next as (partition by direction order by c."timestamp")
        ) as between_half_hours
        where known and energy <= largest
        group by "timestamp"
    ) as d
    on conflict (register_id, "timestamp") do update set
        import_kwh = excluded.import_kwh, export_kwh = excluded.export_kwh, kwh = excluded.kwh
    where kept.derived
        and (kept.import_kwh, kept.export_kwh) is distinct from (excluded.import_kwh, excluded.export_kwh);
    get diagnostics written = row_count;
    if written > 0 then
        insert into flows.derived_register (register_id) values (register) on conflict do nothing;
    end if;
    return written;
end $$;
comment on function flows.derive_interval_hh(uuid, timestamptz, timestamptz, interval)
is 'Derives half-hours of a register from reads within its bound, never replacing measured ones; returns their number.';

create or replace function flows.reads_changed() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    -- Two hours on either side, because a new read changes the interpolation up to its neighbours. One without any
    -- (a counter read once a day) tells of no half-hour.
    execute format(
        $sql$
            select count(flows.derive_interval_hh(
                w.register_id, w.first_read - interval '2 hours', w.last_read + interval '2 hours'
            ))
            from (
                select a.register_id, min(a."timestamp") as first_read, max(a."timestamp") as last_read
                from added as a
                cross join lateral (
                    select from flows.%I as r
                    where r.register_id = a.register_id and r.read is not null
                        and r."timestamp" >= a."timestamp" - interval '2 hours'
                        and r."timestamp" <= a."timestamp" + interval '2 hours'
                        and r."timestamp" <> a."timestamp"
                    limit 1
                ) as neighbour
                where a.read is not null
                group by a.register_id, date_trunc('week', a."timestamp", 'UTC')
            ) as w
        $sql$,
        tg_table_name
    );
    return null;
end $$;
comment on function flows.reads_changed() is 'Derives half-hours from new counter reads.';
-- Nothing is derived beside rows that are copied from another database.
do $$
declare
    series text;
begin
    foreach series in array array['register_import', 'register_export']
    loop
        execute format(
            'create trigger half_hours_follow_new after insert on flows.%I '
            'referencing new table as added for each statement '
            'when (current_setting(''flows.copying'', true) is distinct from ''on'') '
            'execute function flows.reads_changed()', series
        );
        execute format(
            'create trigger half_hours_follow_changed after update on flows.%I '
            'referencing new table as added for each statement '
            'when (current_setting(''flows.copying'', true) is distinct from ''on'') '
            'execute function flows.reads_changed()', series
        );
    end loop;
end $$;

reset role;
