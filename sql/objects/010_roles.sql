grant flows, public_backend, grafanareader to authenticator, flows_gateway;
grant flows_owner to tsdbadmin;
-- A role may cancel queries of roles that it is a member of: here those of callers who disconnected.
grant authenticator to flows_owner;

-- Limits costly queries of a tenant, before they affect others.
alter role flows set statement_timeout = '30s';
alter role public_backend set statement_timeout = '30s';
-- PostgREST repeats its queries as prepared statements. A plan without their values knows neither how many keys
-- nor how much time a filter leaves, and would read the rows of other ESCOs.
alter role authenticator set plan_cache_mode = 'force_custom_plan';
-- Of solid-state disks and of what is in memory, a page here and there costs little more than the next one: some
-- keys are looked up rather than all rows of a time read.
alter role authenticator set random_page_cost = 1.1;
