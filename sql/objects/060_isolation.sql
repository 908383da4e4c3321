set local role flows_owner;

-- Whose a row is stands in the row, set by the database (055_owner.sql). A tenant's policy is one comparison,
-- the same everywhere; operators have a policy of their own, so that no query of the one is planned for both.
do $$
declare
    protected text;
begin
    foreach protected in array array[
        'regions', 'escos', 'sites_new', 'properties', 'feeder_registry', 'service_head_registry',
        'meter_registry', 'meter_shadows', 'meter_registers', 'circuits', 'service_head_meter',
        'properties_service_head', 'circuit_register', 'meter_tophat_registry', 'meter_metrics',
        'meter_event_log_type', 'ev_chargers', 'register_extent'
    ]
    loop
        execute format('alter table flows.%I enable row level security', protected);
        execute format('alter table flows.%I force row level security', protected);
        execute format(
            'create policy "monitoring reads every row" on flows.%I for select to grafanareader using (true)',
            protected
        );
        execute format(
            'create policy "administrators manage every row" on flows.%I to tsdbadmin using (true)', protected
        );
        if protected in ('regions', 'meter_metrics', 'meter_event_log_type') then
            execute format('create policy "every caller reads" on flows.%I for select using (true)', protected);
            execute format(
                'create policy "maintenance manages every row" on flows.%I to flows_owner '
                'using (current_user = ''flows_owner'')', protected
            );
        else
            execute format(
                'create policy "an ESCO has its rows" on flows.%1$I to flows, public_backend '
                'using (%2$I = (select flows.current_esco()))',
                protected, case protected when 'escos' then 'id' else 'esco' end
            );
            -- A view that reads as flows_owner is asked by a caller: it shows what is the caller's.
            execute format(
                'create policy "the owner answers for its caller" on flows.%1$I to flows_owner '
                'using (case when flows.is_planned_for_every_esco() then (select flows.sees_every_esco()) '
                'else %2$I = (select flows.current_esco()) end)',
                protected, case protected when 'escos' then 'id' else 'esco' end
            );
        end if;
    end loop;
end $$;

-- A resident's rows are those of its homes, of which there are few. What has no policy here has no row for residents.
-- A mapping is told of whole where it was the resident's for a time. Of the state of a meter only the present is kept:
-- it is for who lives there now.
do $$
declare
    own record;
begin
    for own in
        select * from (values
            ('escos', 'id = (select flows.own(''esco'')::uuid)'),
            ('sites_new', 'id = any((select flows.own_sites())::uuid[])'),
            ('properties', 'id = any((select flows.own_ids(''properties''))::uuid[])'),
            ('service_head_registry', 'id = any((select flows.own_ids(''heads''))::uuid[])'),
            ('meter_registry', 'id = any((select flows.own_ids(''meters''))::uuid[])'),
            ('meter_shadows', 'id = any((select flows.own_ids(''present_meters''))::uuid[])'),
            ('meter_registers', 'register_id = any((select flows.own_ids(''registers''))::uuid[])'),
            ('circuits', 'id = any((select flows.own_ids(''circuits''))::uuid[])'),
            (
                'properties_service_head',
                'property = any((select flows.own_ids(''properties''))::uuid[]) '
                'and service_head = any((select flows.own_ids(''heads''))::uuid[])'
            ),
            (
                'service_head_meter',
                'meter = any((select flows.own_ids(''meters''))::uuid[]) '
                'and service_head = any((select flows.own_ids(''heads''))::uuid[])'
            ),
            (
                'circuit_register',
                'register = any((select flows.own_ids(''registers''))::uuid[]) '
                'and circuit = any((select flows.own_ids(''circuits''))::uuid[]) '
                'and tstzrange(start_time, end_time) && ('
                '((select flows.own_times(''register_times'')))'
                '[array_position((select flows.own_ids(''registers'')), register)] '
                '* ((select flows.own_times(''circuit_times'')))'
                '[array_position((select flows.own_ids(''circuits'')), circuit)])'
            )
        ) as o (relation, condition)
    loop
        execute format(
            'create policy "a resident reads what is its own" on flows.%I for select to resident using (%s)',
            own.relation, flows.expand_own(own.condition)
        );
    end loop;
end $$;

-- A meter names its site by a column that deployments have without a key, and that may name a site that is not
-- there: no key can say this, and what is there stays as long as it is not changed.
create or replace function flows.check_site() returns trigger
language plpgsql set search_path = ''
as $$
begin
    if not exists (select from flows.sites_new as own where own.id = new.site) then
        raise insufficient_privilege using message
            = 'new row violates row-level security policy "a tenant''s meter is at the tenant''s site" for table "meter_registry"';
    end if;
    return null;
end $$;
comment on function flows.check_site() is 'Refuses a site that its caller does not see.';
create trigger a_tenants_meter_is_at_the_tenants_site after insert on flows.meter_registry
for each row when (current_user = 'flows' and new.site is not null) execute function flows.check_site();
create trigger a_tenants_meter_moves_to_the_tenants_site after update of site on flows.meter_registry
for each row when (current_user = 'flows' and new.site is not null and new.site is distinct from old.site)
execute function flows.check_site();

reset role;
