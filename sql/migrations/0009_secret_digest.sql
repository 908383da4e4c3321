-- Secrets are 256 random bits, which need no slow hash: checking one is then a comparison. The column
-- hash stays until no gateway reads it.
set local role flows_owner;

alter table gateway.client_secret add column digest bytea check (length(digest) = 32);

reset role;
