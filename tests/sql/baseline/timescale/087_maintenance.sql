-- migrate:up
set local role flows_owner;

alter materialized view flows.circuit_interval_hh
set (timescaledb.enable_columnstore, timescaledb.segmentby = 'circuit_id', timescaledb.orderby = '"timestamp" desc');

-- A row of flows.retention becomes the policies of its series. The columnstore's looks every hour: what
-- was corrected in a chunk stands beside it in rows, which every query has to look through as well.
create function flows.apply_retention() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    relation regclass := format('flows.%I', new.series)::regclass;
begin
    perform public.remove_retention_policy(relation, if_exists => true);
    if new.keep is not null then
        perform public.add_retention_policy(relation, drop_after => new.keep);
    end if;
    if new.columnstore_after is distinct from old.columnstore_after then
        call public.remove_columnstore_policy(relation, if_exists => true);
        if new.columnstore_after is not null then
            call public.add_columnstore_policy(
                relation, after => new.columnstore_after, schedule_interval => interval '1 hour'
            );
        end if;
    end if;
    return null;
end $$;
comment on function flows.apply_retention() is 'Policies of a series follow its setting.';
create trigger policies_follow_settings after update on flows.retention
for each row execute function flows.apply_retention();

do $$
declare
    setting record;
begin
    for setting in select r.* from flows.retention as r loop
        if setting.keep is not null then
            perform public.add_retention_policy(
                format('flows.%I', setting.series)::regclass, drop_after => setting.keep
            );
        end if;
        if setting.columnstore_after is not null then
            call public.add_columnstore_policy(
                format('flows.%I', setting.series)::regclass, after => setting.columnstore_after,
                schedule_interval => interval '1 hour'
            );
        end if;
    end loop;
end $$;

create function flows.maintain() returns table (task text, done bigint)
language sql set search_path = ''
begin atomic
    select 'changes put together', flows.compact_changes()
    union all
    select 'extents mended', flows.mend_extents();
end;
comment on function flows.maintain()
is 'What no policy does. Chunks, columnstore and retention are the policies'' work.';

create procedure flows.maintain_job(job_id integer, config jsonb)
language sql set search_path = ''
begin atomic
    select flows.maintain();
end;
comment on procedure flows.maintain_job (integer, jsonb)
is 'flows.maintain(), as a job of TimescaleDB.';
select public.add_job('flows.maintain_job', interval '1 hour');

reset role;

-- migrate:down
