-- Bounds of what callers may write: settings of the deployment, changed by UPDATE.
set local role flows_owner;

create table flows.bounds (
    only_row boolean primary key default true check (only_row),
    largest_kwh numeric not null default 500 check (largest_kwh > 0 and largest_kwh < 'infinity'),
    earliest timestamptz not null default '2000-01-01 00:00Z' check (earliest >= '2000-01-01 00:00Z'),
    ahead interval not null default '1 hour' check (ahead >= interval '0'),
    request_span interval not null default '1 year' check (request_span > interval '0'),
    import_span interval not null default '5 years' check (import_span > interval '0')
);
insert into flows.bounds default values;

reset role;
