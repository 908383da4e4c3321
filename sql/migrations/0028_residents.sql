-- Residents: people who read what belongs to their own home, for the time that they live there.

-- Roles are the cluster's: another database of it may have brought this one.
do $$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'resident') then
        create role resident nologin;
    end if;
end $$;

set local role flows_owner;

alter table gateway.member add column resident boolean not null default false;
alter table gateway.member add constraint member_resident_reads
check (not resident or (scopes = array['read'] and esco is not null));
alter table gateway.member add constraint member_owner unique (id, esco);

-- Both keys have the ESCO: nobody lives in a property of another one. Residents come and go, so a person may have
-- lived in a home twice, but not twice at one time. (Ranges of one number, as equality in a GiST index of other types
-- needs an extension.)
create table gateway.residence (
    member text not null,
    property uuid not null,
    esco uuid not null,
    start_time timestamptz not null,
    end_time timestamptz check (end_time > start_time),
    created_at timestamptz not null default now(),
    primary key (member, property, start_time),
    constraint residence_member_owner_fkey
    foreign key (member, esco) references gateway.member (id, esco) on delete cascade,
    constraint residence_property_owner_fkey
    foreign key (property, esco) references flows.properties (id, esco) on delete cascade,
    constraint residence_once_at_a_time exclude using gist (
        int8range(hashtextextended(member, 0), hashtextextended(member, 0), '[]') with =,
        int8range(uuid_hash_extended(property, 0), uuid_hash_extended(property, 0), '[]') with =,
        tstzrange(start_time, end_time) with &&
    )
);
create index on gateway.residence (property);

-- All that a resident reads by: ids, and beside them the times in which they are the resident's (a place in one array
-- belongs to the same place in the other). No time is before since or from until on; all are the whole time between
-- them where is_one_stay is true.
create type flows.home as (
    since timestamptz, until timestamptz, is_one_stay boolean,
    esco uuid, sites uuid array, properties uuid array, heads uuid array,
    meters uuid array, meter_times tstzmultirange array, present_meters uuid array,
    registers uuid array, register_times tstzmultirange array,
    circuits uuid array, circuit_times tstzmultirange array, summed_times tstzmultirange array
);

reset role;
