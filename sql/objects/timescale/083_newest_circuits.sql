set local role flows_owner;

-- TimescaleDB makes the newest sums of all circuits while it is asked for any of them, unless they are stored. In an
-- ESCO of hundreds of meters hundreds of circuits have a row at the newest time, so a few are found where their
-- half-hours come from.
create or replace function flows.newest_of_circuits(
    aggregate text, label text, rows integer, out since timestamptz, out keys uuid[]
)
-- One plan is right for every ESCO here: the newest half-hours stand first in an index, and each is looked up.
language plpgsql stable set search_path = '' set plan_cache_mode = force_generic_plan
as $$
declare
    zone constant text := case aggregate when 'circuit_interval_daily_london' then 'Europe/London' else 'UTC' end;
    waits boolean;
    found bigint;
    looked_at integer;
begin
    if not exists (
        select from flows.meter_registry as m where m.esco = flows.current_esco() offset 250 limit 1
    ) then
        return;
    end if;
    waits := exists (
        select from flows.change as c
        where c.followed_at is null and coalesce(c.esco = flows.current_esco(), true)
    );
    -- Stored sums of a time stand together in an index, whichever circuits they are of. The half-hour is looked for in
    -- the last days, so that no older chunk is opened.
    if not waits then
        select
            case newest_of_circuits.label
                when 'timestamp' then n."timestamp"
                else date_trunc(newest_of_circuits.label, n."timestamp", zone)
            end
        into since
        from flows.register_interval_hh as n
        where n.esco = flows.current_esco() and n."timestamp" >= now() - interval '8 days'
        order by n."timestamp" desc limit 1;
        if since < flows.kept_until(aggregate) then
            return;
        end if;
    end if;
    -- Circuits have one register mostly; of those with two, as many half-hours again are looked at.
    foreach looked_at in array array[rows, 2 * rows] loop
        select b.label, (array_agg(distinct b.circuit))[:rows] into since, keys
        from (
            select
                m.circuit,
                case newest_of_circuits.label
                    when 'timestamp' then r."timestamp"
                    else date_trunc(newest_of_circuits.label, r."timestamp", zone)
                end as label
            from (
                select n.register_id, n."timestamp" from flows.register_interval_hh as n
                where n.esco = flows.current_esco() order by n."timestamp" desc limit looked_at
            ) as r
            -- Looked up register by register: a join might read every mapping of the ESCO.
            cross join lateral (
                select its.circuit from flows.circuit_register as its
                where its.register = r.register_id and its.esco = flows.current_esco()
                    and r."timestamp" >= its.start_time and (its.end_time is null or r."timestamp" < its.end_time)
                offset 0
            ) as m
        ) as b
        group by b.label order by b.label desc limit 1;
        exit when cardinality(keys) = rows;
    end loop;
    -- Half-hours that came a moment ago may not be summed yet; then their circuits are counted.
    if cardinality(keys) = rows and waits then
        execute format(
            'select count(*) from flows.%I as t where t.esco = $1 and t.%I = $2 and t.circuit_id = any($3)',
            flows.stored_name(aggregate), label
        ) into found using flows.current_esco(), since, keys;
    end if;
    if coalesce(found, cardinality(keys)) < rows then
        since := null;
        keys := null;
    end if;
end $$;
comment on function flows.newest_of_circuits(text, text, integer)
is 'The newest time of an aggregate in a large ESCO; unless it is stored, as many circuits with a row at it as asked.';

reset role;
