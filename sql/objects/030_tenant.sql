set local role flows_owner;

create or replace function flows.engine() returns text
language sql stable set search_path = ''
return case
    when exists (select from pg_catalog.pg_extension where extname = 'timescaledb') then 'timescale'
    else 'postgres'
end;
comment on function flows.engine() is 'The engine that stores the time series: timescale or postgres.';

create or replace function flows.current_esco() returns uuid
language sql stable parallel safe
return nullif(current_setting('app.current_esco', true), '')::uuid;
comment on function flows.current_esco() is 'The caller''s ESCO; null, which gives no rows, if none is set.';

-- Inside a view current_user is still the caller, so a view that reads as flows_owner filters all the
-- same; a background refresh and a definer function run as flows_owner itself and see every ESCO.
-- A superuser must too: a continuous aggregate it refreshes is computed under the owner's policies.
-- is_superuser follows SET ROLE, and asking it costs no look into the catalogue.
create or replace function flows.sees_every_esco() returns boolean
language sql stable parallel safe
return current_user in ('grafanareader', 'tsdbadmin', 'flows_owner') or current_setting('is_superuser') = 'on';
comment on function flows.sees_every_esco()
is 'True if the current role works across ESCOs (monitoring, administration).';

-- The same, for the planner: a policy or a view that asks this is planned for the one or for the other, and
-- a tenant's plan is left with `esco = …`, which an index answers. That is right as long as no plan is used
-- by another role than it was made for. PostgreSQL sees to that wherever a relation of the query has row level
-- security (it plans again when the role changed), so whoever asks this reads flows.escos beside it.
-- Where a plan is kept by other rules (an expression of PL/pgSQL), ask flows.sees_every_esco().
create or replace function flows.is_planned_for_every_esco() returns boolean
language sql immutable parallel safe
return flows.sees_every_esco();
comment on function flows.is_planned_for_every_esco()
is 'flows.sees_every_esco(), for views and policies alone: asked when a query is planned.';

grant execute on function flows.current_esco(), flows.sees_every_esco(), flows.is_planned_for_every_esco()
to flows, public_backend, resident, grafanareader, tsdbadmin;

reset role;
