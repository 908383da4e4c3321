set local role flows_owner;

comment on table gateway.schema_migration is 'Files of sql/migrations that have been applied.';
comment on column gateway.schema_migration.version is 'Number of the file, which is the version of the schema.';
comment on column gateway.schema_migration.name is 'Name of the file.';
comment on column gateway.schema_migration.sha256 is 'SHA-256 of the file when it was applied.';
comment on column gateway.schema_migration.oldest_gateway
is 'Schema version of the oldest gateway that the database still serves.';
comment on column gateway.schema_migration.program is 'Version of Flows that applied it.';
comment on column gateway.schema_migration.applied_at is 'Time at which it was applied, UTC.';
comment on table gateway.schema_objects is 'State of sql/objects when it was last applied.';
comment on column gateway.schema_objects.only_row is 'Always true, so that the table has only one row.';
comment on column gateway.schema_objects.version is 'Schema version that it was applied to.';
comment on column gateway.schema_objects.sha256 is 'SHA-256 of its files.';
comment on column gateway.schema_objects.program is 'Version of Flows that applied it.';
comment on column gateway.schema_objects.applied_at is 'Time at which it was applied, UTC.';
comment on column gateway.schema_objects.recorded
is 'Kind, name and definition of each object then, with which the present ones are compared.';

-- A gateway calls this before it serves requests.
create or replace function gateway.schema_version(out version integer, out oldest_gateway integer)
language sql stable security definer set search_path = ''
begin atomic
    select max(m.version), max(m.oldest_gateway) from gateway.schema_migration as m;
end;
comment on function gateway.schema_version()
is 'Version of the schema, and the oldest version whose gateways it still serves.';
grant execute on function gateway.schema_version() to flows_gateway;

reset role;
