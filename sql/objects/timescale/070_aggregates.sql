set local role flows_owner;

-- The aggregates depend on both functions, so sql/migrations/timescale creates them first.
create or replace function flows.joined_sets(one uuid[], other uuid[]) returns uuid[]
language sql immutable parallel safe set search_path = ''
return case
    when one @> other then one
    else array(select distinct member from unnest(one || other) as member order by member)
end;
comment on function flows.joined_sets(uuid[], uuid[]) is 'The union of two sets.';
create or replace aggregate flows.union_of(uuid[]) (
    sfunc = flows.joined_sets, stype = uuid[], initcond = '{}', combinefunc = flows.joined_sets, parallel = safe
);
comment on aggregate flows.union_of(uuid[]) is 'The union of sets.';
-- Callers need the right to execute them, because the real-time part of an aggregate runs as the caller.
grant execute on function flows.joined_sets(uuid[], uuid[]), flows.union_of(uuid[])
to flows, public_backend, resident, grafanareader, tsdbadmin;

-- A resident's stays are known when a query runs: to compare them with the times of all chunks then, or its bounds
-- when it begins, takes longer than to look into an index of each.
alter function flows.own_data_state(tstzrange) set timescaledb.enable_chunk_append = off;
alter function flows.own_data_state(tstzrange) set timescaledb.enable_constraint_aware_append = off;

create or replace function flows.follow_readings(registers uuid[], spans tstzrange[]) returns void
language sql set search_path = ''
begin atomic
    select flows.note_readings(registers, spans, false);
end;
comment on function flows.follow_readings(uuid[], tstzrange[])
is 'Records changed half-hours; the job flows.follow updates the aggregates for them.';

create or replace function flows.follow_mapping(circuits uuid[], registers uuid[], spans tstzrange[]) returns void
language sql set search_path = ''
begin atomic
    select flows.note_mapping(circuits, registers, spans, false);
end;
comment on function flows.follow_mapping(uuid[], uuid[], tstzrange[])
is 'Records registers that moved between circuits; the job flows.follow updates the aggregates for them.';

create or replace function flows.kept_until(aggregate text) returns timestamptz
language sql stable set search_path = ''
begin atomic
    select _timescaledb_functions.to_timestamp(_timescaledb_functions.cagg_watermark(kept.id))
    from timescaledb_information.continuous_aggregates as a
    inner join _timescaledb_catalog.hypertable as kept
        on a.materialization_hypertable_schema = kept.schema_name
        and a.materialization_hypertable_name = kept.table_name
    where a.view_schema = 'flows' and a.view_name = flows.stored_name(aggregate);
end;
comment on function flows.kept_until(text)
is 'Time up to which an aggregate is materialized; later rows are summed when they are queried.';

-- Sums may be older than any half-hour: those of half-hours that were removed since.
create or replace function flows.summed_from() returns timestamptz
language plpgsql stable set search_path = ''
as $$
declare
    kept text;
    oldest timestamptz;
begin
    select format('%I.%I', a.materialization_hypertable_schema, a.materialization_hypertable_name) into kept
    from timescaledb_information.continuous_aggregates as a
    where a.view_schema = 'flows' and a.view_name = 'circuit_sums_hh';
    execute format('select min("timestamp") from %s', kept) into oldest;
    return oldest;
end $$;
comment on function flows.summed_from() is 'The first half-hour that an aggregate has a sum of.';

-- A refresh cannot be limited to circuits: for one mapping of two years it would recompute the figures of
-- every ESCO. So below the time up to which an aggregate is materialized, only the rows of the changed circuits are
-- deleted from the table that stores it, and inserted again by the aggregate's own query. The lock waits for a
-- running refresh and blocks the next one, because each would miss uncommitted rows of the other.
create or replace procedure flows.replace_buckets(
    aggregate text, label text, circuits uuid[], starts timestamptz, ends timestamptz
)
language plpgsql
as $$
declare
    kept regclass;
    query text;
begin
    select
        format('%I.%I', a.materialization_hypertable_schema, a.materialization_hypertable_name)::regclass,
        rtrim(a.view_definition, '; ')
    into kept, query
    from timescaledb_information.continuous_aggregates as a
    where a.view_schema = 'flows' and a.view_name = flows.stored_name(aggregate);
    execute format('lock table %s in share row exclusive mode', kept);
    ends := least(ends, flows.kept_until(aggregate));
    if ends <= starts then
        return;
    end if;
    -- flows.follow itself updates the levels above.
    perform set_config('timescaledb.skip_cagg_invalidation', 'on', true);
    execute format('delete from %s where circuit_id = any($1) and %I >= $2 and %I < $3', kept, label, label)
    using circuits, starts, ends;
    execute format(
        'insert into %s select * from (%s) as fresh where circuit_id = any($1) and %I >= $2 and %I < $3',
        kept, query, label, label
    )
    using circuits, starts, ends;
end $$;
comment on procedure flows.replace_buckets(text, text, uuid[], timestamptz, timestamptz)
is 'Recomputes the materialized figures of some circuits, from one bucket up to another.';

-- The days of every circuit that a change concerns are its size. An ESCO's changes are taken in their order, and
-- of all ESCOs those first before which the least of their own is waiting: what is small and new never waits for
-- what is large.
create or replace function flows.next_changes(budget bigint) returns bigint[]
language sql stable set search_path = '' set plan_cache_mode = 'force_custom_plan'
begin atomic
    with owned as (
        select m.esco, count(distinct m.circuit) as circuits, min(known.available_from) as oldest
        from flows.circuit_register as m
        left join flows.register_extent as known on m.register = known.register_id
        where m.esco in (select c.esco from flows.change as c where c.followed_at is null)
        group by 1
    ), waiting as (
        select
            c.id, c.esco,
            coalesce(cardinality(c.registers) + coalesce(cardinality(c.circuits), 0), owned.circuits, 1)
            -- A period that begins at the end of time lasts no time, and minus infinity is no bigint.
            * greatest(1, extract(epoch from
                least(upper(c.period), now()) - greatest(lower(c.period), coalesce(owned.oldest, now()))
            ) / 86400)::bigint as size
        from flows.change as c
        left join owned on c.esco = owned.esco
        where c.followed_at is null
    ), in_turn as (
        select w.id, w.size, sum(w.size) over (partition by w.esco order by w.id) as turn from waiting as w
    ), shared as (
        select i.id, sum(i.size) over (order by i.turn, i.id) - i.size as before from in_turn as i
    )
    select coalesce(array_agg(s.id order by s.id), '{}') from shared as s where s.before < next_changes.budget;
end;
comment on function flows.next_changes(bigint)
is 'The changes to follow next: about so many days of circuits, in fair shares of the ESCOs.';

-- The circuits of a register are looked up only now, because a mapping may have changed while the reading was
-- written.
create or replace function flows.changed_circuits(changes bigint[], step interval, since timestamptz, until timestamptz)
returns table (circuits uuid[], starts timestamptz, ends timestamptz)
language sql stable set search_path = '' set plan_cache_mode = 'force_custom_plan'
begin atomic
    with change as (
        select
            c.esco, c.registers, c.circuits,
            tstzrange(greatest(lower(c.period), since), least(upper(c.period), until)) as span
        from flows.change as c
        where c.id = any(changed_circuits.changes)
            and greatest(lower(c.period), since) < least(upper(c.period), until)
    ), concerned as (
        select c.span, unnest(c.circuits) as circuit from change as c
        union all
        select c.span, m.circuit
        from change as c
        inner join flows.circuit_register as m on m.register = any(c.registers)
        union all
        select c.span, m.circuit
        from change as c
        inner join flows.circuit_register as m on c.esco is not distinct from m.esco
        where c.registers is null
            and m.start_time < upper(c.span) and (m.end_time is null or m.end_time > lower(c.span))
    )
    select
        array_agg(distinct p.circuit),
        min(greatest(lower(p.span), p.part)),
        max(least(upper(p.span), date_add(p.part, step, 'UTC')))
    from (
        select c.circuit, c.span, generate_series(
            public.time_bucket(step, lower(c.span), 'UTC'), upper(c.span) - interval '1 microsecond', step, 'UTC'
        ) as part
        from concerned as c
    ) as p
    group by p.part
    order by p.part;
end;
comment on function flows.changed_circuits(bigint[], interval, timestamptz, timestamptz)
is 'The circuits that changes concern, in parts of time.';

-- Each level is made from the one below. Refreshes go on from where an aggregate is materialized; they are forced,
-- because a changed mapping invalidates nothing (TimescaleDB #6353), and neither does a COPY into a hypertable with
-- row or transition-table triggers (2.29.2): a plain refresh would find both "already up-to-date". A bucket that
-- has not ended is left to the real-time part: materialized too early, it would hide later readings. A refresh is one
-- batch: the steps here bound it, and batches of ten buckets, its own way, take twice as long.
create or replace procedure flows.follow(job_id integer default null, config jsonb default null)
language plpgsql
as $$
declare
    -- A few seconds' work; committed by level, so that others see it and what came meanwhile is looked at.
    budget constant bigint := 20000;
    step interval := '31 days';
    began timestamptz;
    taken bigint[];
    behind boolean;
    oldest timestamptz;
    summed timestamptz;
    newest timestamptz;
    level record;
    part record;
    kept timestamptz;
    target timestamptz;
    -- A refresh over a time without rows does not move the time up to which an aggregate is materialized.
    reached timestamptz[] := array[null, null, null, null];
    stored timestamptz[];
begin
    -- Two runs at a time (of the job and an operator) would refresh the same buckets twice.
    perform pg_catalog.pg_advisory_lock(pg_catalog.hashtext('flows.follow'));
    loop
        taken := flows.next_changes(budget);
        behind := false;
        select min(e.available_from), least(max(e.available_to), now() - interval '1 hour') into oldest, newest
        from flows.register_extent as e having count(*) > 0;
        summed := least(flows.summed_from(), oldest);
        began := clock_timestamp();
        for level in
            select
                l.*,
                -- Sums over rows that retention has dropped must not be recomputed.
                greatest(now() - r.keep + l.bucket, public.time_bucket(l.bucket, summed, l.zone)) as since
            from (values
                (1, 'circuit_interval_hh', 'timestamp', 'register_interval_hh', null, interval '30 minutes', 'UTC',
                    interval '1 month', 1),
                (2, 'circuit_interval_daily', 'day', 'circuit_interval_hh', 1, interval '1 day', 'UTC',
                    interval '1 year', 12),
                (3, 'circuit_interval_daily_london', 'day', 'circuit_interval_hh', 1, interval '1 day', 'Europe/London',
                    interval '1 year', 12),
                (4, 'circuit_interval_monthly', 'month', 'circuit_interval_daily', 2, interval '1 month', 'UTC',
                    interval '10 years', 120)
            ) as l (position, aggregate, label, below, below_position, bucket, zone, part, steps)
            inner join flows.retention as r on l.below = r.series
            order by l.position
        loop
            kept := flows.kept_until(level.aggregate);
            for part in
                select c.circuits, c.starts, c.ends
                from flows.changed_circuits(taken, level.part, level.since, kept) as c
            loop
                -- Two hours more: a local day may have 25, and only whole buckets are made.
                call flows.replace_buckets(
                    level.aggregate, level.label, part.circuits,
                    public.time_bucket(level.bucket, part.starts, level.zone),
                    public.time_bucket(level.bucket, part.ends - interval '1 microsecond', level.zone)
                    + level.bucket + interval '2 hours'
                );
                commit;
            end loop;

            -- Beyond what the level below has stored, it is summed from half-hours each time it is asked for.
            target := case when newest is not null then public.time_bucket(
                level.bucket,
                least(newest, case when level.position > 1 then greatest(oldest, stored[level.below_position]) end),
                level.zone
            ) end;
            kept := greatest(
                kept, reached[level.position],
                public.time_bucket(level.bucket, greatest(oldest, level.since), level.zone)
            );
            -- A refresh of months also looks at all days that are not stored yet: they come when no more are left.
            if kept < target and not (level.position = 4 and behind) then
                behind := behind or kept + step * level.steps < target;
                reached[level.position] := least(
                    public.time_bucket(level.bucket, kept + step * level.steps, level.zone) + level.bucket, target
                );
                call public.refresh_continuous_aggregate(
                    format('flows.%I', flows.stored_name(level.aggregate))::regclass, kept, reached[level.position],
                    force => true, options => '{"buckets_per_batch": 0}'
                );
            end if;
            stored[level.position] := greatest(flows.kept_until(level.aggregate), reached[level.position]);
        end loop;
        update flows.change as c set
            followed_at = clock_timestamp(), registers = null, circuits = null,
            transaction = case c.kind when 'reading' then pg_current_xact_id() else c.transaction end,
            horizon = case c.kind when 'reading' then pg_snapshot_xmin(pg_current_snapshot()) else c.horizon end,
            effective_at = case c.kind when 'reading' then clock_timestamp() else c.effective_at end
        where c.id = any(taken);
        commit;
        exit when taken = '{}' and not behind;
        -- A refresh is everybody's: it takes about as long as a share.
        step := case
            when clock_timestamp() - began > interval '4 seconds' then greatest(step / 2, interval '1 day')
            when clock_timestamp() - began < interval '1 second' then least(step * 2, interval '124 days')
            else step
        end;
    end loop;
    perform pg_catalog.pg_advisory_unlock(pg_catalog.hashtext('flows.follow'));
end $$;
comment on procedure flows.follow(integer, jsonb) is 'Updates the aggregates for all changes recorded so far.';

-- A late half-hour waits for the next run. A pause that an operator chose stays; it was 20 seconds before.
do $$
declare
    job integer;
    pause interval;
begin
    select j.job_id, j.schedule_interval into job, pause
    from timescaledb_information.jobs as j where j.proc_schema = 'flows' and j.proc_name = 'follow';
    if job is null then
        perform public.add_job('flows.follow', interval '10 seconds', initial_start => now());
    elsif pause = interval '20 seconds' then
        perform public.alter_job(job, schedule_interval => interval '10 seconds');
    end if;
end $$;

reset role;
