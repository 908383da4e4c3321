-- migrate:up
set local role flows_owner;

-- What changed, for whom and over which half-hours: appended, so that nobody waits for anybody. The
-- answers of /v1 are tagged by it, and on TimescaleDB the aggregates follow it.
create table flows.change (
    id bigint generated always as identity primary key,
    esco uuid,
    kind text not null check (kind in ('reading', 'mapping', 'configuration')),
    period tstzrange not null,
    registers uuid[],
    circuits uuid[],
    changes bigint not null default 1,
    changed_at timestamptz not null default clock_timestamp(),
    followed_at timestamptz
);
create index on flows.change (esco, changed_at);
create index on flows.change (id) where followed_at is null;
comment on table flows.change is 'Changes of half-hours, of mappings and of configuration.';
comment on column flows.change.id is 'Number of the change.';
comment on column flows.change.esco is 'ESCO whose figures change; empty for every ESCO.';
comment on column flows.change.kind is 'What changed: a reading, a mapping or configuration.';
comment on column flows.change.period is 'Half-hours whose figures change.';
comment on column flows.change.registers
is 'Registers the aggregates have yet to follow, where they are few; empty for all.';
comment on column flows.change.circuits is 'Circuits the aggregates have yet to follow beside those of the registers.';
comment on column flows.change.changes is 'How many changes the row stands for; old rows of one week are put together.';
comment on column flows.change.changed_at is 'When it changed.';
comment on column flows.change.followed_at is 'When the aggregates had followed; empty until then.';

alter table flows.change enable row level security;
alter table flows.change force row level security;
create policy "maintenance alone reads and writes changes" on flows.change
to flows_owner, tsdbadmin using (current_user in ('flows_owner', 'tsdbadmin'));

create type flows.register_half_hour as (register_id uuid, "timestamp" timestamptz);

-- A row for each ESCO and week, so that one very late reading beside many new ones does not make the
-- whole time between them look changed. What is not followed yet names its registers, unless they are so
-- many that all may as well be made again.
create function flows.note_readings(changed flows.register_half_hour[], followed boolean) returns void
language sql set search_path = ''
begin atomic
    insert into flows.change (esco, kind, period, registers, followed_at)
    select
        meter.esco,
        'reading',
        tstzrange(min(c."timestamp"), max(c."timestamp") + interval '30 minutes'),
        case when not followed and count(distinct c.register_id) <= 50 then array_agg(distinct c.register_id) end,
        case when followed then clock_timestamp() end
    from unnest(changed) as c
    inner join flows.meter_registers as register on c.register_id = register.register_id
    inner join flows.meter_registry as meter on register.meter_id = meter.id
    group by meter.esco, date_trunc('week', c."timestamp", 'UTC');
end;
comment on function flows.note_readings(flows.register_half_hour[], boolean)
is 'Notes changed half-hours for each ESCO and week.';

-- Also without a single half-hour: what is expected of the circuits changes.
create function flows.note_mapping(circuits uuid[], registers uuid[], spans tstzmultirange, followed boolean)
returns void
language sql set search_path = ''
begin atomic
    insert into flows.change (esco, kind, period, registers, circuits, followed_at)
    select distinct
        meter.esco, 'mapping', span, case when not followed then '{}'::uuid[] end,
        case when not followed then note_mapping.circuits end, case when followed then clock_timestamp() end
    from flows.meter_registers as register
    inner join flows.meter_registry as meter on register.meter_id = meter.id
    cross join unnest(spans) as span
    where register.register_id = any(note_mapping.registers);
end;
comment on function flows.note_mapping(uuid[], uuid[], tstzmultirange, boolean)
is 'Notes for each ESCO when registers moved between circuits.';

create function flows.note_configuration() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    -- What a tenant changes is its own (policies see to that); an administrator may change anybody's.
    insert into flows.change (esco, kind, period, followed_at)
    values (flows.current_esco(), 'configuration', '(,)', clock_timestamp());
    return null;
end $$;
comment on function flows.note_configuration() is 'Notes that names, sites or meters changed.';
do $$
declare
    configured text;
begin
    foreach configured in array array[
        'escos', 'sites_new', 'properties', 'feeder_registry', 'service_head_registry', 'meter_registry',
        'meter_registers', 'circuits', 'service_head_meter', 'properties_service_head'
    ]
    loop
        execute format(
            'create trigger configuration_is_noted after insert or update or delete on flows.%I '
            'for each statement execute function flows.note_configuration()', configured
        );
    end loop;
end $$;

-- A token of monitoring has no ESCO and reads every one.
create function flows.callers_escos() returns uuid[]
language sql stable set search_path = ''
return case
    when nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role' = 'grafanareader'
        then array(select esco.id from flows.escos as esco)
    else array[flows.current_esco()]
end;
comment on function flows.callers_escos() is 'The ESCOs whose changes are the caller''s to know of.';

-- The version moves with every change the caller could see in the period, and again when the
-- aggregates have followed it; as_of is the latest moment whose changes are all in. Until a changed
-- mapping is followed, the aggregates are sums over the old one.
create function flows.data_state(period tstzrange, out version text, out as_of timestamptz, out remapping boolean)
language sql stable security definer set search_path = ''
begin atomic
    select
        coalesce(sum(c.changes), 0) || '-' || coalesce(max(c.id), 0) || '-'
        || coalesce(sum(c.changes) filter (where c.followed_at is not null), 0),
        coalesce(
            min(c.changed_at) filter (where c.followed_at is null),
            max(c.changed_at)
        ),
        coalesce(bool_or(c.kind = 'mapping' and c.followed_at is null), false)
    from flows.change as c
    where c.period && data_state.period
        and (c.esco is null or c.esco = any((select flows.callers_escos())::uuid[]));
end;
comment on function flows.data_state(tstzrange)
is 'Version and latest change of what the caller can see in a period, and whether the aggregates lag a mapping.';
grant execute on function flows.data_state(tstzrange) to flows, public_backend, grafanareader;

create function flows.changed_since(moment timestamptz, period tstzrange) returns tstzmultirange
language sql stable security definer set search_path = ''
begin atomic
    select coalesce(range_agg(c.period * changed_since.period), '{}')
    from flows.change as c
    where c.period && changed_since.period
        and (c.followed_at is null or c.followed_at >= changed_since.moment)
        and (c.esco is null or c.esco = any((select flows.callers_escos())::uuid[]));
end;
comment on function flows.changed_since(timestamptz, tstzrange)
is 'Which part of a period has figures, of those the caller can see, that changed since a moment.';
grant execute on function flows.changed_since(timestamptz, tstzrange) to flows, public_backend, grafanareader;

reset role;

-- migrate:down
