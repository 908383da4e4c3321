-- A meter may move to another home, and a service head supply another one. What was measured before then stays with the
-- home that had it: a link has a time from which it holds (empty: ever), and one that ended is kept.
set local role flows_owner;

alter table flows.service_head_meter add column start_time timestamptz;
alter table flows.properties_service_head add column start_time timestamptz;

-- They have no keys but their ESCO's: what was a neighbour's stays hidden when the neighbour's home is deleted.
create table flows.former_service_head_meter (
    service_head uuid not null,
    meter uuid not null,
    esco uuid references flows.escos on delete cascade,
    start_time timestamptz,
    end_time timestamptz not null,
    primary key (service_head, meter, end_time)
);
create index on flows.former_service_head_meter (meter);
create index on flows.former_service_head_meter (esco);

create table flows.former_properties_service_head (
    property uuid not null,
    service_head uuid not null,
    esco uuid references flows.escos on delete cascade,
    start_time timestamptz,
    end_time timestamptz not null,
    primary key (property, service_head, end_time)
);
create index on flows.former_properties_service_head (service_head);
create index on flows.former_properties_service_head (esco);

-- What is the resident's today.
alter type flows.home add attribute present_heads uuid array, add attribute present_circuits uuid array;

reset role;
