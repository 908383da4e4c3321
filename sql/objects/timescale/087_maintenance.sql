set local role flows_owner;

-- Applies a row of flows.retention as policies of its series. The columnstore policy runs every hour,
-- because corrected rows of a chunk are kept outside the columnstore, and slow down every query.
create or replace function flows.apply_retention() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    relation regclass := format('flows.%I', flows.stored_name(new.series))::regclass;
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
comment on function flows.apply_retention() is 'Applies the retention setting of a series to its policies.';
create trigger policies_follow_settings after insert or update on flows.retention
for each row execute function flows.apply_retention();

create or replace function flows.maintain() returns table (task text, done bigint)
language sql set search_path = ''
begin atomic
    select 'changes put together', flows.compact_changes()
    union all
    select 'extents mended', flows.mend_extents();
end;
comment on function flows.maintain()
is 'Maintenance that TimescaleDB''s policies do not do; chunks, columnstore and retention are theirs.';

create or replace procedure flows.maintain_job(job_id integer, config jsonb)
language sql set search_path = ''
begin atomic
    select flows.maintain();
end;
comment on procedure flows.maintain_job (integer, jsonb)
is 'flows.maintain(), as a job of TimescaleDB.';
select public.add_job('flows.maintain_job', interval '1 hour')
where not exists (
    select from timescaledb_information.jobs as j where j.proc_schema = 'flows' and j.proc_name = 'maintain_job'
);

reset role;
