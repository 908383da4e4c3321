set local role flows_owner;

-- Each level is made again from the one below, for the changed spans alone (one for each circuit and day in
-- UTC). The circuits are locked first, in order (64 locks of an ESCO at most, so that no statement exhausts the
-- lock table): who waited for one sums, with a new snapshot, what the other had committed.
--
-- Every look into a series, and for an owner, is a lateral one with "offset 0" or "limit 1", by the key of one span:
-- no statistics, and no number of spans, make it a join of all with all.
create or replace function flows.recompute(circuits uuid[], spans tstzrange[]) returns void
language plpgsql set search_path = '' set plan_cache_mode = 'force_custom_plan'
as $$
declare
    known record;
    level record;
begin
    perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('flows.recompute'), stripe)
    from (
        select distinct coalesce(pg_catalog.hashtext(owned.esco::text), 0) # (pg_catalog.hashtext(owned.id::text) & 63) as stripe
        from flows.circuits as owned
        where owned.id = any(circuits)
        order by 1
    ) as locked;

    -- Half-hours are mostly new: looking once a span costs less than "on conflict" does for each. Those that are
    -- kept are deleted together for the circuits of one span.
    for known in
        select array_agg(c.circuit_id) as circuits, c.span
        from unnest(circuits, spans) as c (circuit_id, span)
        cross join lateral (
            select from flows.circuit_sums_hh as kept
            where kept.circuit_id = c.circuit_id
                and kept."timestamp" >= lower(c.span) and kept."timestamp" < upper(c.span)
            limit 1
        ) as any_kept
        group by c.span
    loop
        delete from flows.circuit_sums_hh as kept
        where kept.circuit_id = any(known.circuits)
            and kept."timestamp" >= lower(known.span) and kept."timestamp" < upper(known.span);
    end loop;
    insert into flows.circuit_sums_hh
    select c.circuit_id, made.*, now(), owned.esco
    from unnest(circuits, spans) as c (circuit_id, span)
    cross join lateral (
        select circuit.esco from flows.circuits as circuit where circuit.id = c.circuit_id offset 0
    ) as owned
    cross join lateral (
        select
            reading."timestamp",
            sum(reading.import_kwh) as total_import_kwh,
            sum(reading.export_kwh) as total_export_kwh,
            count(*) as register_intervals,
            array_agg(distinct mapping.meter_id) as meters
        from (
            select m.esco, m.register, m.start_time, m.end_time, register.meter_id
            from flows.circuit_register as m
            inner join flows.meter_registers as register on m.register = register.register_id
            where m.circuit = c.circuit_id
            offset 0
        ) as mapping
        cross join lateral (
            select r."timestamp", r.import_kwh, r.export_kwh
            from flows.register_interval_hh as r
            where r.register_id = mapping.register and r.esco is not distinct from mapping.esco
                and r."timestamp" >= greatest(lower(c.span), mapping.start_time)
                and r."timestamp" < least(upper(c.span), mapping.end_time)
            offset 0
        ) as reading
        group by 1
    ) as made;

    for level in
        select * from (values
            (1, 'circuit_sums_daily', 'day', 'circuit_sums_hh', 'timestamp', 'UTC', 'count(*)'),
            (2, 'circuit_sums_daily_london', 'day', 'circuit_sums_hh', 'timestamp', 'Europe/London',
                'count(*)'),
            (3, 'circuit_sums_monthly', 'month', 'circuit_sums_daily', 'day', 'UTC',
                'sum(b.present_intervals)')
        ) as l (position, name, unit, below, below_label, zone, present) order by position
    loop
        execute format(
            $sql$
            with fresh as (
                select
                    c.circuit_id,
                    c.label,
                    sum(part.total_import_kwh) as total_import_kwh,
                    sum(part.total_export_kwh) as total_export_kwh,
                    coalesce(sum(part.register_intervals), 0) as register_intervals,
                    coalesce(sum(part.present_intervals), 0) as present_intervals,
                    array(
                        select distinct meter
                        from unnest(string_to_array(string_agg(array_to_string(part.meters, ','), ','), ',')::uuid[]) as meter
                        order by meter
                    ) as meters
                from (
                    select distinct u.circuit_id, l.label, date_add(l.label, %7$L::interval, %6$L) as stop
                    from unnest($1, $2) as u (circuit_id, span)
                    cross join lateral (values (lower(u.span)), (upper(u.span) - interval '30 minutes')) as e (edge)
                    cross join lateral (select date_trunc(%2$L, e.edge, %6$L)) as l (label)
                ) as c
                -- Mostly the meters are the same all day: there are few parts, and each row below is read once.
                left join lateral (
                    select
                        b.meters,
                        sum(b.total_import_kwh) as total_import_kwh,
                        sum(b.total_export_kwh) as total_export_kwh,
                        sum(b.register_intervals) as register_intervals,
                        %5$s as present_intervals
                    from flows.%3$I as b
                    where b.circuit_id = c.circuit_id and b.%4$I >= c.label and b.%4$I < c.stop
                    group by b.meters
                ) as part on true
                group by c.circuit_id, c.label
            ), emptied as (
                delete from flows.%1$I as kept using fresh
                where kept.circuit_id = fresh.circuit_id and kept.%2$I = fresh.label
                    and fresh.register_intervals = 0
            )
            insert into flows.%1$I as kept
            select fresh.*, now(), circuit.esco
            from fresh inner join flows.circuits as circuit on fresh.circuit_id = circuit.id
            where fresh.register_intervals > 0
            on conflict (circuit_id, %2$I) do update set
                total_import_kwh = excluded.total_import_kwh,
                total_export_kwh = excluded.total_export_kwh,
                register_intervals = excluded.register_intervals,
                present_intervals = excluded.present_intervals,
                meters = excluded.meters,
                updated_at = excluded.updated_at,
                esco = excluded.esco
            $sql$,
            level.name, level.unit, level.below, level.below_label, level.present, level.zone, '1 ' || level.unit
        ) using circuits, spans;
    end loop;
end $$;
comment on function flows.recompute(uuid[], tstzrange[])
is 'Makes the aggregates of circuits again over spans within a day in UTC, at every level.';

-- The mapping must not change between a reading and its sum: readings take their ESCO's lock together, a change of
-- its mapping takes it alone (flows.lock_mapping). Who comes second sums what the first had committed.
create or replace function flows.follow_readings(registers uuid[], spans tstzrange[]) returns void
language plpgsql set search_path = '' set plan_cache_mode = 'force_custom_plan'
as $$
declare
    circuits uuid[];
    circuit_spans tstzrange[];
begin
    perform flows.lock_mapping(registers, false);
    select array_agg(d.circuit), array_agg(d.span) into circuits, circuit_spans
    from (
        select mapping.circuit, tstzrange(min(lower(c.span)), max(upper(c.span))) as span
        from unnest(registers, spans) as c (register_id, span)
        inner join flows.circuit_register as mapping
            on c.register_id = mapping.register and mapping.start_time < upper(c.span)
            and (mapping.end_time > lower(c.span) or mapping.end_time is null)
        group by mapping.circuit, date_bin('1 day', lower(c.span), '2000-01-01 00:00Z')
        order by 1, 2
    ) as d;
    if circuits <> '{}' then
        perform flows.recompute(circuits, circuit_spans);
    end if;
    perform flows.note_readings(registers, spans, true);
end $$;
comment on function flows.follow_readings(uuid[], tstzrange[])
is 'Brings the aggregates behind changed half-hours.';

create or replace function flows.follow_mapping(circuits uuid[], registers uuid[], spans tstzrange[]) returns void
language plpgsql set search_path = '' set plan_cache_mode = 'force_custom_plan'
as $$
declare
    moved_circuits uuid[];
    moved_spans tstzrange[];
begin
    perform flows.lock_mapping(registers, true);
    select array_agg(d.circuit), array_agg(d.span) into moved_circuits, moved_spans
    from (
        select moved.circuit, tstzrange(min(reading."timestamp"), max(reading."timestamp") + interval '30 minutes') as span
        from unnest(circuits, registers, spans) as moved (circuit, register, span)
        cross join lateral (
            select r."timestamp" from flows.register_interval_hh as r
            where r.register_id = moved.register
                and r."timestamp" >= lower(moved.span) and r."timestamp" < coalesce(upper(moved.span), 'infinity')
            offset 0
        ) as reading
        group by moved.circuit, date_bin('1 day', reading."timestamp", '2000-01-01 00:00Z')
        order by 1, 2
    ) as d;
    if moved_circuits <> '{}' then
        perform flows.recompute(moved_circuits, moved_spans);
    end if;
    perform flows.note_mapping(circuits, registers, spans, true);
end $$;
comment on function flows.follow_mapping(uuid[], uuid[], tstzrange[])
is 'Brings the aggregates of circuits behind registers that moved between them.';

create or replace procedure flows.follow()
language sql set search_path = ''
begin atomic
end;
comment on procedure flows.follow ()
is 'Nothing is left to do here: the aggregates follow within each statement.';

reset role;
