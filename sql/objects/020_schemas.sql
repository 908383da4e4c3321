comment on schema flows is 'Flows: prepayment smart meters of energy communities.';
comment on schema api is 'Flows: meters, registers, circuits and their half-hourly energy, of the caller''s ESCO.';
comment on schema gateway is 'Clients, keys, revocations and audit of the gateway.';

grant usage on schema flows, api to flows, public_backend, resident, grafanareader, tsdbadmin;
grant usage on schema gateway to flows, public_backend, resident, grafanareader, flows_gateway, authenticator;
