set local role flows_owner;

-- A view that hides other ESCOs' rows takes no ORDER BY … LIMIT from outside: PostgreSQL would read all rows of
-- the ESCO and sort them. These functions have both inside, where an index ends after the rows that are asked for.
-- The gateway calls them for requests of the newest rows (app/postgrest/newest.py).

do $$
declare
    series record;
    -- TimescaleDB alone makes sums when it is asked (timescale/083_newest_circuits.sql).
    few constant text := $few$
        if not with_ties then
            select n.since, n.keys into since, keys from flows.newest_of_circuits(%1$L, %2$L, rows) as n;
        end if;
        if keys is not null then
            return query
            select %3$s from flows.%1$I as t where t.circuit_id = any(keys) and t.%2$I = since and t.esco = owner;
            return;
        end if;
        -- All of that time are stored. If they are fewer than asked for, those before are as well.
        if since is not null then
            return query select %3$s from flows.%1$I as t where t.%2$I = since and t.esco = owner limit rows;
            get diagnostics found = row_count;
            if found < rows then
                return query
                select %3$s from flows.%1$I as t where t.%2$I < since and t.esco = owner
                order by t.%2$I desc limit rows - found;
            end if;
            return;
        end if;
    $few$;
begin
    for series in
        select
            s.name, s.key, s.label, s.chunk,
            (
                select string_agg(format('t.%I', a.attname), ', ' order by a.attnum)
                from pg_catalog.pg_attribute as a
                where a.attrelid = format('api.%I', s.name)::regclass and a.attnum > 0
            ) as columns,
            u.unit, u.zone
        from flows.series() as s cross join lateral flows.unit_of(s.name) as u
    loop
        -- A resident has few keys: the newest rows of each of its stays there, from the end of an index. (Of a stay
        -- that is not known when it is planned few rows are expected, which would be read and sorted. And TimescaleDB
        -- would compare the times of all chunks for each stay, where the newest chunk mostly has all that is asked for.)
        -- What is old is looked at last: a plan begins with all parts of a series but those that its first times rule
        -- out, and to begin with a part takes longer than to read these rows.
        execute format(
            $create$
            create or replace function api.newest_own_%1$s(rows integer, with_ties boolean) returns setof api.%1$I
            language plpgsql stable security definer
            set search_path = '' set plan_cache_mode = force_generic_plan set enable_sort = off%8$s
            as $function$
            declare
                owner constant uuid := flows.current_esco();
                recent constant timestamptz := least(now(), flows.own('until')::timestamptz) - %9$s;
                first timestamptz := recent;
                stop timestamptz := 'infinity';
                wanted integer := rows;
                found integer;
            begin
                loop
                    if with_ties then
                        return query %7$s order by t.%2$I desc fetch first (wanted) rows with ties;
                    else
                        return query %7$s order by t.%2$I desc limit wanted;
                    end if;
                    get diagnostics found = row_count;
                    wanted := wanted - found;
                    exit when wanted <= 0 or stop = recent;
                    stop := recent;
                    first := '-infinity';
                end loop;
            end $function$
            $create$,
            series.name, series.label, series.columns, null, null, null,
            format(
                $query$
                select %3$s
                from (
                    select own.id, coalesce(lower(stay), '-infinity') as since, %7$s as until
                    from unnest(flows.own_ids(%5$L), flows.own_times(%6$L)) as own (id, times)
                    cross join lateral unnest(own.times) as stay
                    offset 0
                ) as k
                cross join lateral (
                    select * from flows.%1$I as its
                    where its.%4$I = k.id and its.esco is not distinct from owner
                        and its.%2$I >= k.since and its.%2$I < k.until and its.%2$I >= first and its.%2$I < stop
                    order by its.%2$I desc fetch first (wanted) rows with ties
                ) as t
                $query$,
                series.name, series.label, series.columns, series.key,
                case series.key when 'register_id' then 'registers' when 'meter_id' then 'meters' else 'circuits' end,
                case series.key
                    when 'register_id' then 'register_times' when 'meter_id' then 'meter_times' else 'summed_times'
                end,
                flows.last_label('coalesce(upper(stay), ''infinity'')', series.unit, series.zone)
            ),
            case when flows.engine() = 'timescale' then ' set timescaledb.enable_runtime_exclusion = off' end,
            -- As long as a chunk, and as what is asked for if all of it has come.
            format(
                'interval %L%s', coalesce(series.chunk, interval '30 days'),
                ' - least(rows, 10000) * interval ' || quote_literal(series.unit)
            )
        );
        execute format(
            'comment on function api.newest_own_%s(integer, boolean) is %L', series.name,
            'A resident''s newest rows of ' || series.name || '; with ties, all of those at the time of the last.'
        );
        execute format('grant execute on function api.newest_own_%s(integer, boolean) to resident', series.name);

        execute format(
            $create$
            create or replace function api.newest_%1$s(rows integer, with_ties boolean) returns setof api.%1$I
            language plpgsql stable security definer set search_path = '' set plan_cache_mode = force_generic_plan
            -- One plan is right for every ESCO and every number: the index's. To plan anew reads every chunk.
            as $function$
            declare
                -- A definer function sees every ESCO, so whose rows they are must be asked in so many words.
                owner constant uuid := flows.current_esco();
                since timestamptz;
                keys uuid[];
                found integer;
            begin
                %4$s
                if with_ties then
                    return query
                    select %3$s from flows.%1$I as t where t.esco = owner
                    order by t.%2$I desc fetch first (newest_%1$s.rows) rows with ties;
                else
                    return query
                    select %3$s from flows.%1$I as t where t.esco = owner
                    order by t.%2$I desc limit newest_%1$s.rows;
                end if;
            end $function$
            $create$,
            series.name, series.label, series.columns,
            case when series.key = 'circuit_id' and flows.engine() = 'timescale'
                then format(few, series.name, series.label, series.columns)
            end
        );
        execute format(
            'comment on function api.newest_%s(integer, boolean) is %L', series.name,
            'The caller''s newest rows of ' || series.name || '; with ties, all of those at the time of the last.'
        );
        execute format(
            'grant execute on function api.newest_%s(integer, boolean) to flows, public_backend', series.name
        );
    end loop;
end $$;

reset role;
