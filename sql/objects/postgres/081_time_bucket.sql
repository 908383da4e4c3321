set local role flows_owner;

-- Queries of dashboards and notebooks use TimescaleDB's function; the search path of monitoring finds this one.
create or replace function flows.time_bucket(width interval, moment timestamptz, timezone text default 'UTC')
returns timestamptz
language sql immutable parallel safe set search_path = ''
return case
    when extract(year from width) * 12 + extract(month from width) = 0
        then date_bin(width, moment at time zone timezone, timestamp '2000-01-03') at time zone timezone
    else (
        timestamp '2000-01-01' + make_interval(months => (
            floor(
                (
                    extract(year from moment at time zone timezone) * 12
                    + extract(month from moment at time zone timezone) - 24001
                ) / (extract(year from width) * 12 + extract(month from width))
            ) * (extract(year from width) * 12 + extract(month from width))
        )::integer)
    ) at time zone timezone
end;
comment on function flows.time_bucket(interval, timestamptz, text)
is 'Start of the interval that a time is in, as TimescaleDB''s function of this name counts it.';
grant execute on function flows.time_bucket(interval, timestamptz, text) to grafanareader, tsdbadmin;

reset role;
