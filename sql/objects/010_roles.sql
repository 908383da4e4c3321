grant flows, public_backend, grafanareader to authenticator, flows_gateway;
grant flows_owner to tsdbadmin;
-- A role may cancel what its own members run: the queries of callers who left, nobody else's.
grant authenticator to flows_owner;

-- A tenant's costly query ends before it hurts the others.
alter role flows set statement_timeout = '30s';
alter role public_backend set statement_timeout = '30s';
