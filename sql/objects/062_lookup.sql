-- The ids that the barrier views of api compare with, found from the ESCO by index: policies say the same
-- (a test compares them), but to list by them means to look at every ESCO's rows, in each query. So
-- these functions run as a role of their own that nobody is a member of, that reads five tables and
-- has nothing else; they take no argument, and a session plans them once. The ids are in order: every
-- index that is searched for them (one a chunk) sorts them first, which costs nothing then.
set local role flows_owner;

grant create on schema flows to flows_lookup;
do $$
declare
    looked_up text;
begin
    foreach looked_up in array array['sites_new', 'meter_registry', 'meter_registers', 'circuits', 'circuit_register']
    loop
        execute format('grant select on flows.%I to flows_lookup', looked_up);
        execute format(
            'create policy "the lookup of what is an ESCO''s reads every row" on flows.%I '
            'for select to flows_lookup using (true)', looked_up
        );
    end loop;
end $$;

set local role flows_lookup;

-- A definer's current_user is its owner; the role that was set is the caller's all the same.
create or replace function flows.caller_sees_every_esco() returns boolean
language sql stable
return coalesce(nullif(current_setting('role'), 'none'), session_user)
in ('grafanareader', 'tsdbadmin', 'flows_owner') or current_setting('is_superuser') = 'on';
comment on function flows.caller_sees_every_esco()
is 'flows.sees_every_esco() of the caller, asked by a function that runs as its owner.';

create or replace function flows.own_meters() returns uuid[]
language plpgsql stable security definer set search_path = ''
as $$
begin
    if flows.caller_sees_every_esco() then
        return array(select meter.id from flows.meter_registry as meter order by 1);
    end if;
    return array(
        select meter.id from flows.meter_registry as meter where meter.esco = flows.current_esco() order by 1
    );
end $$;
comment on function flows.own_meters() is 'The meters the caller may see.';

create or replace function flows.own_registers() returns uuid[]
language plpgsql stable security definer set search_path = ''
as $$
begin
    if flows.caller_sees_every_esco() then
        return array(select register.register_id from flows.meter_registers as register order by 1);
    end if;
    return array(
        select register.register_id
        from flows.meter_registry as meter
        inner join flows.meter_registers as register on meter.id = register.meter_id
        where meter.esco = flows.current_esco()
        order by 1
    );
end $$;
comment on function flows.own_registers() is 'The registers the caller may see.';

create or replace function flows.own_circuits() returns uuid[]
language plpgsql stable security definer set search_path = ''
as $$
begin
    if flows.caller_sees_every_esco() then
        return array(select circuit.id from flows.circuits as circuit order by 1);
    end if;
    return array(
        select circuit.id
        from flows.circuits as circuit
        where circuit.site in (select site.id from flows.sites_new as site where site.esco = flows.current_esco())
        union
        select mapping.circuit
        from flows.meter_registry as meter
        inner join flows.meter_registers as register on meter.id = register.meter_id
        inner join flows.circuit_register as mapping on register.register_id = mapping.register
        where meter.esco = flows.current_esco()
        order by 1
    );
end $$;
comment on function flows.own_circuits() is 'The circuits the caller may see.';

revoke execute on function
flows.caller_sees_every_esco(), flows.own_meters(), flows.own_registers(), flows.own_circuits()
from public, flows, public_backend, grafanareader, tsdbadmin, flows_owner;
grant execute on function flows.own_meters(), flows.own_registers(), flows.own_circuits()
to flows, public_backend, grafanareader, tsdbadmin, flows_owner;

set local role flows_owner;
revoke create on schema flows from flows_lookup;
reset role;
