set local role flows_owner;

create or replace function gateway.measure_series(
    out series text, out bytes bigint, out estimated_rows bigint, out parts bigint, out parts_in_columnstore bigint,
    out years_ahead bigint
) returns setof record
language sql stable security definer set search_path = ''
as $$
    select
        r.series,
        public.hypertable_size(t.kept),
        public.approximate_row_count(t.kept),
        count(c.chunk_name),
        count(c.chunk_name) filter (where c.is_compressed),
        null::bigint
    from flows.retention as r
    left join timescaledb_information.continuous_aggregates as a
        on a.view_schema = 'flows' and a.view_name = flows.stored_name(r.series)
    cross join lateral (select pg_catalog.format(
        '%I.%I',
        coalesce(a.materialization_hypertable_schema, 'flows'),
        coalesce(a.materialization_hypertable_name, r.series)
    )::regclass as kept) as t
    left join timescaledb_information.chunks as c
        on pg_catalog.format('%I.%I', c.hypertable_schema, c.hypertable_name)::regclass = t.kept
    group by r.series, t.kept
$$;
comment on function gateway.measure_series()
is 'Size of each series with its indexes, bytes; its rows as estimated, chunks, and chunks in the columnstore.';
grant execute on function gateway.measure_series() to flows_gateway;

create or replace function gateway.job_failures(out job text, out series text, out failures bigint) returns setof record
language sql stable security definer set search_path = ''
as $$
    -- A job that has not run yet has no numbers.
    select j.proc_name::text, coalesce(j.hypertable_name, '')::text, coalesce(sum(s.total_failures), 0)::bigint
    from timescaledb_information.jobs as j
    inner join timescaledb_information.job_stats as s using (job_id)
    where j.proc_schema <> '_timescaledb_functions' or j.hypertable_name is not null
    group by 1, 2
$$;
comment on function gateway.job_failures() is 'Failures of TimescaleDB''s jobs so far.';
grant execute on function gateway.job_failures() to flows_gateway;

reset role;
