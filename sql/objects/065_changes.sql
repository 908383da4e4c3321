set local role flows_owner;
comment on table flows.change is 'Changes of half-hours, of mappings and of configuration.';
comment on column flows.change.id is 'Number of the change.';
comment on column flows.change.esco is 'ESCO whose figures change; empty for every ESCO.';
comment on column flows.change.kind is 'Kind of the change: a reading, a mapping or configuration.';
comment on column flows.change.period is 'Half-hours whose figures change.';
comment on column flows.change.registers
is 'Registers whose aggregates are not up to date, if few; empty for all registers.';
comment on column flows.change.circuits
is 'Circuits whose aggregates are not up to date, in addition to those of the registers.';
comment on column flows.change.changes is 'Number of changes that the row stands for; old rows of a week are merged.';
comment on column flows.change.changed_at is 'Time of the change.';
comment on column flows.change.followed_at is 'Time at which the aggregates were up to date again; empty until then.';

alter table flows.change enable row level security;
alter table flows.change force row level security;
create policy "maintenance alone reads and writes changes" on flows.change
to flows_owner, tsdbadmin using (current_user in ('flows_owner', 'tsdbadmin'));

-- A row for each ESCO and week, so that one very late reading beside many new ones does not make the
-- whole time between them look changed. It names its registers while they wait to be followed, unless they are
-- so many that all of the ESCO's may as well be made again.
create or replace function flows.note_readings(registers uuid[], spans tstzrange[], followed boolean) returns void
language sql set search_path = '' set plan_cache_mode = 'force_custom_plan'
begin atomic
    insert into flows.change (esco, kind, period, registers, followed_at)
    select
        register.esco,
        'reading',
        tstzrange(min(lower(c.span)), max(upper(c.span))),
        case when not followed and count(distinct c.register_id) <= 50 then array_agg(distinct c.register_id) end,
        case when followed then clock_timestamp() end
    from unnest(note_readings.registers, spans) as c (register_id, span)
    inner join flows.meter_registers as register on c.register_id = register.register_id
    group by register.esco, date_trunc('week', lower(c.span), 'UTC');
end;
comment on function flows.note_readings(uuid[], tstzrange[], boolean)
is 'Records changed half-hours for each ESCO and week.';

-- Also without a single half-hour: what is expected of the circuits changes. At most 200 circuits in a row, so
-- that a change of thousands can be followed a share at a time.
create or replace function flows.note_mapping(
    circuits uuid[], registers uuid[], spans tstzrange[], followed boolean
) returns void
language sql set search_path = '' set plan_cache_mode = 'force_custom_plan'
begin atomic
    insert into flows.change (esco, kind, period, registers, circuits, followed_at)
    select
        m.esco, 'mapping', range_merge(range_agg(m.span)), case when not followed then '{}'::uuid[] end,
        case when not followed then array_agg(distinct m.circuit) end, case when followed then clock_timestamp() end
    from (
        select
            circuit.esco, c.circuit, c.span, date_trunc('month', lower(c.span), 'UTC') as month,
            dense_rank() over (
                partition by circuit.esco, date_trunc('month', lower(c.span), 'UTC') order by c.circuit
            ) as position
        from unnest(note_mapping.circuits, note_mapping.registers, spans) as c (circuit, register, span)
        inner join flows.circuits as circuit on c.circuit = circuit.id
    ) as m
    group by m.esco, m.month, (m.position - 1) / 200;
end;
comment on function flows.note_mapping(uuid[], uuid[], tstzrange[], boolean)
is 'Records for each ESCO the periods in which registers moved between circuits.';

create or replace function flows.note_configuration() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    -- A tenant can change only its own rows (the policies see to that), an administrator those of all ESCOs.
    insert into flows.change (esco, kind, period, followed_at)
    values (flows.current_esco(), 'configuration', '(,)', clock_timestamp());
    return null;
end $$;
comment on function flows.note_configuration() is 'Records that names, sites or meters changed.';
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
create or replace function flows.callers_escos() returns uuid[]
language sql stable set search_path = ''
return case
    when nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role' = 'grafanareader'
        then array(select esco.id from flows.escos as esco)
    else array[flows.current_esco()]
end;
comment on function flows.callers_escos() is 'The ESCOs whose changes the caller may see.';

-- The version moves with every change the caller could see in the period, and again when the
-- aggregates have followed it; as_of is the latest moment whose changes are all in. Until a changed
-- mapping is followed, the aggregates are sums over the old one.
create or replace function flows.data_state(
    period tstzrange, out version text, out as_of timestamptz, out remapping boolean
)
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
is 'Version and latest change of the caller''s data in a period; remapping while aggregates lag behind a mapping.';
grant execute on function flows.data_state(tstzrange) to flows, public_backend, grafanareader;

create or replace function flows.changed_since(moment timestamptz, period tstzrange) returns tstzmultirange
language sql stable security definer set search_path = ''
begin atomic
    select coalesce(range_agg(c.period * changed_since.period), '{}')
    from flows.change as c
    where c.period && changed_since.period
        and (c.followed_at is null or c.followed_at >= changed_since.moment)
        and (c.esco is null or c.esco = any((select flows.callers_escos())::uuid[]));
end;
comment on function flows.changed_since(timestamptz, tstzrange)
is 'Parts of a period in which figures that the caller can see have changed since a point in time.';
grant execute on function flows.changed_since(timestamptz, tstzrange) to flows, public_backend, grafanareader;

-- Changes that were followed an hour ago are put together, a row for each ESCO, kind and week. Their
-- number and the last of them stay, so no answer's tag moves.
create or replace function flows.compact_changes() returns bigint
language sql set search_path = ''
begin atomic
    with old as (
        select c.*, date_trunc('week', lower(c.period), 'UTC') as week
        from flows.change as c
        where c.followed_at < now() - interval '1 hour'
    ), together as (
        select
            max(o.id) as id, o.esco, o.kind, range_merge(range_agg(o.period)) as period,
            sum(o.changes) as changes, max(o.changed_at) as changed_at, max(o.followed_at) as followed_at
        from old as o
        group by o.esco, o.kind, o.week
        having count(*) > 1
    ), kept as (
        update flows.change as c set
            period = t.period, changes = t.changes, changed_at = t.changed_at, followed_at = t.followed_at
        from together as t where c.id = t.id
    ), gone as (
        delete from flows.change as c using old as o, together as t
        where c.id = o.id and c.id <> t.id and o.kind = t.kind and o.esco is not distinct from t.esco
            and o.week is not distinct from date_trunc('week', lower(t.period), 'UTC')
        returning c.id
    )
    select count(*) from gone;
end;
comment on function flows.compact_changes() is 'Merges old changes; returns the number of rows removed.';

reset role;
