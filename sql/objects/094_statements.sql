-- Statements of other logins are shown to members of pg_read_all_stats alone.
do $$
begin
    grant pg_read_all_stats to flows_owner;
exception
    when insufficient_privilege then
        raise notice 'flows_owner does not read statistics of statements: %', sqlerrm;
end $$;

set local role flows_owner;

-- Constants of rows' statements are numbered parameters, but for a text that was pushed out while its statement ran:
-- what could be a value is cut out of all. Statements of other kinds (a role's password) are left out.
create or replace function gateway.slow_statements(most integer)
returns table (query_id text, login text, statement text, calls bigint, seconds double precision, rows bigint)
language plpgsql stable security definer set search_path = ''
as $$
declare
    statistics text := (
        select pg_catalog.format('%I.pg_stat_statements', n.nspname)
        from pg_catalog.pg_extension as e
        inner join pg_catalog.pg_namespace as n on e.extnamespace = n.oid
        where e.extname = 'pg_stat_statements'
    );
begin
    if statistics is null then
        return;
    end if;
    return query execute pg_catalog.format(
        $query$
            select
                s.queryid::text, r.rolname::text,
                left(regexp_replace(regexp_replace(regexp_replace(
                    min(s.query), '''[^'']*(''|$)', '?', 'g'
                ), '([^\w$.]|^)[0-9][\w.]*', '\1?', 'g'), '\s+', ' ', 'g'), 200),
                sum(s.calls)::bigint, (sum(s.total_exec_time) / 1000)::double precision, sum(s.rows)::bigint
            from %s as s
            inner join pg_catalog.pg_roles as r on s.userid = r.oid
            where s.dbid = (select d.oid from pg_catalog.pg_database as d where d.datname = current_database())
                and s.queryid is not null and s.query ~* '^\s*(select|insert|update|delete|with|merge)\M'
            group by s.queryid, r.rolname
            order by sum(s.total_exec_time) desc limit $1
        $query$, statistics
    ) using most;
exception
    when object_not_in_prerequisite_state then
        return;  -- the server does not load it
end $$;
comment on function gateway.slow_statements(integer)
is 'The statements that took most time in this database, without their values, if the server keeps statistics of them.';
grant execute on function gateway.slow_statements(integer) to flows_gateway, grafanareader;

create or replace function gateway.replicas(out replica text, out lag_bytes numeric, out lag_seconds double precision)
returns setof record
language sql stable security definer set search_path = ''
begin atomic
    select
        r.application_name,
        max(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), r.replay_lsn)),
        max(extract(epoch from r.replay_lag))::double precision
    from pg_catalog.pg_stat_replication as r
    where not pg_catalog.pg_is_in_recovery() and r.state = 'streaming' and r.replay_lsn is not null
    group by r.application_name;
end;
comment on function gateway.replicas()
is 'Replicas that stream from this server: WAL that each has yet to replay, bytes, and the delay of its last reply, s.';
grant execute on function gateway.replicas() to flows_gateway, grafanareader;

reset role;
