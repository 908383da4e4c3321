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
to flows, public_backend, grafanareader, tsdbadmin;

create or replace function flows.follow_readings(registers uuid[], spans tstzrange[]) returns void
language sql set search_path = ''
begin atomic
    select flows.note_readings(registers, spans, false);
end;
comment on function flows.follow_readings(uuid[], tstzrange[])
is 'Records changed half-hours; the job flows.follow updates the aggregates for them.';

create or replace function flows.follow_mapping(circuits uuid[], registers uuid[], spans tstzmultirange) returns void
language sql set search_path = ''
begin atomic
    select flows.note_mapping(circuits, registers, spans, false);
end;
comment on function flows.follow_mapping(uuid[], uuid[], tstzmultirange)
is 'Records registers that moved between circuits; the job flows.follow updates the aggregates for them.';

create or replace function flows.kept_until(aggregate text) returns timestamptz
language sql stable set search_path = ''
begin atomic
    select _timescaledb_functions.to_timestamp(_timescaledb_functions.cagg_watermark(kept.id))
    from timescaledb_information.continuous_aggregates as a
    inner join _timescaledb_catalog.hypertable as kept
        on a.materialization_hypertable_schema = kept.schema_name
        and a.materialization_hypertable_name = kept.table_name
    where a.view_schema = 'flows' and a.view_name = aggregate;
end;
comment on function flows.kept_until(text)
is 'Time up to which an aggregate is materialized; later rows are summed when they are queried.';

-- A refresh cannot be limited to circuits: for one mapping of two years it would recompute the figures of
-- every circuit. So if few circuits changed, only their rows are deleted from the table that stores the
-- aggregate, and inserted again by the aggregate's own query. The lock waits for a running refresh and
-- blocks the next one, because each would miss uncommitted rows of the other.
create or replace procedure flows.replace_buckets(aggregate text, label text, circuits uuid[], starts timestamptz, ends timestamptz)
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
    where a.view_schema = 'flows' and a.view_name = aggregate;
    execute format('lock table %s in share row exclusive mode', kept);
    ends := least(ends, flows.kept_until(aggregate));
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

-- Every refresh is forced. A changed mapping invalidates nothing (TimescaleDB #6353), and neither does a
-- COPY into a hypertable with row or transition-table triggers (2.29.2): a plain refresh would find
-- both "already up-to-date". A bucket that has not ended is left to the real-time part: materialized too
-- early, it would hide later readings.
create or replace procedure flows.follow(job_id integer default null, config jsonb default null)
language plpgsql
as $$
declare
    taken bigint[];
    change record;
    level record;
    starts timestamptz;
    ends timestamptz;
begin
    -- Two runs at a time (of the job and an operator) would refresh the same buckets twice.
    perform pg_catalog.pg_advisory_lock(pg_catalog.hashtext('flows.follow'));
    taken := array(select c.id from flows.change as c where c.followed_at is null);
    -- Update either all circuits, a month at a time, or some circuits over their whole span; commit after
    -- each level. Look up the circuits of a register only now, because a mapping may have changed while
    -- the reading was written.
    for change in
        select
            found.registers is null as every,
            found.circuits || array(
                select m.circuit from flows.circuit_register as m where m.register = any(found.registers)
            ) as circuits,
            unnest(found.spans) as span
        from (
            select c.registers, coalesce(c.circuits, '{}') as circuits, range_agg(c.period) as spans
            from flows.change as c
            where c.id = any(taken)
            group by 1, 2, case when c.registers is null then date_trunc('month', lower(c.period), 'UTC') end
        ) as found
        order by 3
    loop
        for level in
            select
                l.*,
                -- Sums over rows that retention has dropped must not be recomputed.
                greatest(lower(change.span), now() - r.keep + l.bucket) as since
            from (values
                (1, 'circuit_interval_hh', 'timestamp', 'register_interval_hh', interval '30 minutes', 'UTC'),
                (2, 'circuit_interval_daily', 'day', 'circuit_interval_hh', interval '1 day', 'UTC'),
                (3, 'circuit_interval_daily_london', 'day', 'circuit_interval_hh', interval '1 day', 'Europe/London'),
                (4, 'circuit_interval_monthly', 'month', 'circuit_interval_daily', interval '1 month', 'UTC')
            ) as l (position, aggregate, label, below, bucket, zone)
            inner join flows.retention as r on l.below = r.series
            order by l.position
        loop
            starts := public.time_bucket(level.bucket, level.since, level.zone);
            -- Add two hours: a local day may have 25 hours, and a refresh covers only whole buckets.
            ends := least(
                public.time_bucket(level.bucket, upper(change.span) - interval '1 microsecond', level.zone)
                + level.bucket + interval '2 hours',
                public.time_bucket(level.bucket, now() - interval '1 hour', level.zone)
            );
            if ends <= starts then
                continue;
            -- If nothing is materialized yet (in a database that was just copied), start with a refresh.
            elsif change.every or flows.kept_until(level.aggregate) <= starts then
                call public.refresh_continuous_aggregate(
                    format('flows.%I', level.aggregate)::regclass, starts, ends, force => true
                );
            else
                call flows.replace_buckets(level.aggregate, level.label, change.circuits, starts, ends);
                commit;
            end if;
        end loop;
    end loop;
    update flows.change set followed_at = clock_timestamp(), registers = null, circuits = null
    where id = any(taken);
    perform pg_catalog.pg_advisory_unlock(pg_catalog.hashtext('flows.follow'));
end $$;
comment on procedure flows.follow(integer, jsonb) is 'Updates the aggregates for all changes recorded so far.';

select public.add_job('flows.follow', interval '20 seconds', initial_start => now())
where not exists (
    select from timescaledb_information.jobs as j where j.proc_schema = 'flows' and j.proc_name = 'follow'
);

reset role;
