set local role flows_owner;

create or replace function gateway.measure_series(
    out series text, out bytes bigint, out estimated_rows bigint, out parts bigint, out parts_in_columnstore bigint,
    out years_ahead bigint
) returns setof record
language sql stable security definer set search_path = ''
begin atomic
    select
        r.series,
        coalesce(
            sum(pg_catalog.pg_total_relation_size(child.oid)), pg_catalog.pg_total_relation_size(parent.oid)
        )::bigint,
        coalesce(
            sum(greatest(child.reltuples, 0)) filter (where child.oid is not null), greatest(parent.reltuples, 0)
        )::bigint,
        count(child.oid),
        0::bigint,
        count(child.oid) filter (where right(child.relname, 4)::integer > extract(year from now()))
    from flows.retention as r
    inner join pg_catalog.pg_class as parent
        on flows.stored_name(r.series) = parent.relname and parent.relnamespace = 'flows'::regnamespace
    left join pg_catalog.pg_inherits as i on parent.oid = i.inhparent
    left join pg_catalog.pg_class as child on i.inhrelid = child.oid
    group by r.series, parent.oid, parent.reltuples, parent.relkind;
end;
comment on function gateway.measure_series()
is 'Size of each series with its indexes, bytes; its rows as estimated, partitions, and yearly partitions ahead.';
grant execute on function gateway.measure_series() to flows_gateway;

reset role;
