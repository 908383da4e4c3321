-- migrate:up
set local role flows_owner;

create function flows.joined_sets(one uuid[], other uuid[]) returns uuid[]
language sql immutable parallel safe set search_path = ''
return case
    when one @> other then one
    else array(select distinct member from unnest(one || other) as member order by member)
end;
comment on function flows.joined_sets(uuid[], uuid[]) is 'The union of two sets.';
create aggregate flows.union_of(uuid[]) (
    sfunc = flows.joined_sets, stype = uuid[], initcond = '{}', combinefunc = flows.joined_sets, parallel = safe
);
comment on aggregate flows.union_of(uuid[]) is 'The union of sets.';
-- The real-time part of an aggregate runs it as the caller.
grant execute on function flows.joined_sets(uuid[], uuid[]), flows.union_of(uuid[])
to flows, public_backend, grafanareader, tsdbadmin;

create materialized view flows.circuit_interval_hh
with (timescaledb.continuous, timescaledb.materialized_only = false) as
select
    mapping.circuit as circuit_id,
    public.time_bucket('30 minutes', reading."timestamp") as "timestamp",
    sum(reading.import_kwh) as total_import_kwh,
    sum(reading.export_kwh) as total_export_kwh,
    count(*) as register_intervals,
    array_agg(distinct register.meter_id) as meters,
    max(greatest(reading.updated_at, mapping.updated_at)) as updated_at
from flows.register_interval_hh as reading
inner join flows.circuit_register as mapping
    on
        reading.register_id = mapping.register
        and reading."timestamp" >= mapping.start_time
        and (reading."timestamp" < mapping.end_time or mapping.end_time is null)
inner join flows.meter_registers as register on reading.register_id = register.register_id
group by 1, 2
with no data;

create materialized view flows.circuit_interval_daily
with (timescaledb.continuous, timescaledb.materialized_only = false) as
select
    circuit_id,
    public.time_bucket('1 day', "timestamp") as day,
    sum(total_import_kwh) as total_import_kwh,
    sum(total_export_kwh) as total_export_kwh,
    sum(register_intervals) as register_intervals,
    count(*) as present_intervals,
    flows.union_of(meters) as meters,
    max(updated_at) as updated_at
from flows.circuit_interval_hh
group by 1, 2
with no data;

create materialized view flows.circuit_interval_monthly
with (timescaledb.continuous, timescaledb.materialized_only = false) as
select
    circuit_id,
    public.time_bucket('1 month', day) as month,
    sum(total_import_kwh) as total_import_kwh,
    sum(total_export_kwh) as total_export_kwh,
    sum(register_intervals) as register_intervals,
    sum(present_intervals) as present_intervals,
    flows.union_of(meters) as meters,
    max(updated_at) as updated_at
from flows.circuit_interval_daily
group by 1, 2
with no data;

create materialized view flows.circuit_interval_daily_london
with (timescaledb.continuous, timescaledb.materialized_only = false) as
select
    circuit_id,
    public.time_bucket('1 day', "timestamp", 'Europe/London') as day,
    sum(total_import_kwh) as total_import_kwh,
    sum(total_export_kwh) as total_export_kwh,
    sum(register_intervals) as register_intervals,
    count(*) as present_intervals,
    flows.union_of(meters) as meters,
    max(updated_at) as updated_at
from flows.circuit_interval_hh
group by 1, 2
with no data;

-- The policies move the line between what is kept and what is summed when it is asked for; flows.follow
-- (below) brings what changed behind that line.
select
    public.add_continuous_aggregate_policy(
        'flows.circuit_interval_hh',
        start_offset => null, end_offset => interval '1 hour', schedule_interval => interval '30 minutes'
    ),
    public.add_continuous_aggregate_policy(
        'flows.circuit_interval_daily',
        start_offset => null, end_offset => interval '1 day', schedule_interval => interval '1 hour'
    ),
    public.add_continuous_aggregate_policy(
        'flows.circuit_interval_daily_london',
        start_offset => null, end_offset => interval '1 day', schedule_interval => interval '1 hour'
    ),
    public.add_continuous_aggregate_policy(
        'flows.circuit_interval_monthly',
        start_offset => null, end_offset => interval '1 month', schedule_interval => interval '1 day'
    );

create function flows.follow_readings(changed flows.register_half_hour[]) returns void
language sql set search_path = ''
begin atomic
    select flows.note_readings(changed, false);
end;
comment on function flows.follow_readings(flows.register_half_hour[])
is 'Notes changed half-hours; the job flows.follow brings the aggregates behind them.';

create function flows.follow_mapping(circuits uuid[], registers uuid[], spans tstzmultirange) returns void
language sql set search_path = ''
begin atomic
    select flows.note_mapping(circuits, registers, spans, false);
end;
comment on function flows.follow_mapping(uuid[], uuid[], tstzmultirange)
is 'Notes registers that moved between circuits; the job flows.follow brings the aggregates behind them.';

create function flows.kept_until(aggregate text) returns timestamptz
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
is 'Up to where an aggregate is kept; what is later is summed when it is asked for.';

-- A refresh knows no circuits: for one mapping of two years it would make the figures of every circuit
-- again. So where few circuits changed, their rows alone are taken out of the table that keeps the
-- aggregate, and put in again by the aggregate's own query. The lock waits for a refresh under way and
-- keeps the next one out: each would miss what the other has not committed.
create procedure flows.replace_buckets(aggregate text, label text, circuits uuid[], starts timestamptz, ends timestamptz)
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
    -- The levels above are told of by flows.follow itself.
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
is 'Makes the kept figures of some circuits again, from one bucket up to another.';

-- Every refresh is forced. A changed mapping invalidates nothing (TimescaleDB #6353), and neither does a
-- COPY into a hypertable with row or transition-table triggers (2.29.2): a plain refresh would find
-- both "already up-to-date". A bucket that is not over is left to the real-time part: kept too early,
-- it would hide the readings still to come.
create procedure flows.follow(job_id integer default null, config jsonb default null)
language plpgsql
as $$
declare
    taken bigint[];
    change record;
    level record;
    starts timestamptz;
    ends timestamptz;
begin
    -- Two followers at a time (the job and an operator) would refresh the same buckets twice.
    perform pg_catalog.pg_advisory_lock(pg_catalog.hashtext('flows.follow'));
    taken := array(select c.id from flows.change as c where c.followed_at is null);
    -- Every circuit a month at a time, or some circuits as far as it goes; each level is committed. Which
    -- circuits a register is in is asked now: a mapping may have changed while the reading was written.
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
                -- What is summed from rows that are kept no longer must not be summed again.
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
            -- Two hours more: a local day may have 25 hours, and a refresh takes whole buckets only.
            ends := least(
                public.time_bucket(level.bucket, upper(change.span) - interval '1 microsecond', level.zone)
                + level.bucket + interval '2 hours',
                public.time_bucket(level.bucket, now() - interval '1 hour', level.zone)
            );
            if ends <= starts then
                continue;
            -- Where nothing is kept yet (a database that was just copied), a refresh begins it.
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
comment on procedure flows.follow(integer, jsonb) is 'Brings the aggregates behind every change noted so far.';

select public.add_job('flows.follow', interval '20 seconds', initial_start => now());

reset role;

-- migrate:down
