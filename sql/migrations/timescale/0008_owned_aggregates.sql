-- The aggregates by owner take the place and the settings of those without.
set local role flows_owner;

drop materialized view flows.circuit_interval_monthly cascade;
drop materialized view flows.circuit_interval_daily_london cascade;
drop materialized view flows.circuit_interval_daily cascade;
drop materialized view flows.circuit_interval_hh cascade;
alter materialized view flows.owned_interval_hh rename to circuit_interval_hh;
alter materialized view flows.owned_interval_daily rename to circuit_interval_daily;
alter materialized view flows.owned_interval_daily_london rename to circuit_interval_daily_london;
alter materialized view flows.owned_interval_monthly rename to circuit_interval_monthly;

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
do $$
declare
    setting record;
begin
    for setting in select r.* from flows.retention as r where r.series like 'circuit\_interval\_%' loop
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

-- What changed meanwhile was followed into the old ones.
update flows.change as c set followed_at = null
from flows.owner_filling as f where c.changed_at >= f.started_at and c.kind <> 'configuration';
drop table flows.owner_filling;

reset role;
