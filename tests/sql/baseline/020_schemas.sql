-- migrate:up
-- api is what callers see, flows is the data behind it, gateway is what the gateway itself keeps.
create schema flows authorization flows_owner;
create schema api authorization flows_owner;
create schema gateway authorization flows_owner;
comment on schema flows is 'Flows: prepayment smart meters of energy communities.';
comment on schema api is 'Flows: meters, registers, circuits and their half-hourly energy, of the caller''s ESCO.';
comment on schema gateway is 'Clients, keys, revocations and audit of the gateway.';

-- Extensions live in public; their functions are for the owner of the aggregates, not for callers.
revoke all on schema public from public;
grant usage on schema public to flows_owner;
alter default privileges for role flows_owner revoke execute on functions from public;

grant usage on schema flows, api to flows, public_backend, grafanareader, tsdbadmin;
grant usage on schema flows to flows_lookup;
grant usage on schema gateway to flows, public_backend, grafanareader, flows_gateway, authenticator;

-- migrate:down
