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
comment on column flows.change.transaction
is 'Transaction in which the figures change: of a reading, the one in which the aggregates were up to date again.';
comment on column flows.change.horizon is 'All older transactions had ended when the change was recorded.';
comment on column flows.change.effective_at is 'Time at which the figures change.';
comment on column flows.change.dimensions
is 'Dimensions of groups that configuration changed; name for names; empty for all.';
comment on column flows.change.touched_registers is 'Registers whose figures change, if few; empty for all registers.';
comment on column flows.change.touched_circuits is 'Circuits whose mapping changed.';
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
    insert into flows.change (esco, kind, period, registers, touched_registers, followed_at)
    select
        register.esco,
        'reading',
        tstzrange(min(lower(c.span)), max(upper(c.span))),
        case when not followed and count(distinct c.register_id) <= 50 then array_agg(distinct c.register_id) end,
        case when count(distinct c.register_id) <= 50 then array_agg(distinct c.register_id) end,
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
    insert into flows.change (esco, kind, period, registers, circuits, touched_registers, touched_circuits, followed_at)
    select
        m.esco, 'mapping', range_merge(range_agg(m.span)), case when not followed then '{}'::uuid[] end,
        case when not followed then array_agg(distinct m.circuit) end, array_agg(distinct m.register),
        array_agg(distinct m.circuit), case when followed then clock_timestamp() end
    from (
        select
            circuit.esco, c.circuit, c.register, c.span, date_trunc('month', lower(c.span), 'UTC') as month,
            dense_rank() over (
                partition by circuit.esco, date_trunc('month', lower(c.span), 'UTC') order by c.circuit
            ) as position
        from unnest(note_mapping.circuits, note_mapping.registers, spans) as c (circuit, register, span)
        cross join lateral (
            select own.esco from flows.circuits as own where own.id = c.circuit offset 0
        ) as circuit
    ) as m
    group by m.esco, m.month, (m.position - 1) / 200;
end;
comment on function flows.note_mapping(uuid[], uuid[], tstzrange[], boolean)
is 'Records for each ESCO the periods in which registers moved between circuits.';

-- Each argument is a column and what it is to /v1: a dimension of groups, `name`, or `every` dimension. An insert or
-- a delete is noted of links alone: nothing has figures before it is linked or mapped, nor after.
create or replace function flows.note_configuration() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    owner constant text := case tg_table_name when 'escos' then 'id' else 'esco' end;
    concerned constant text := (
        select string_agg(
            format(
                '(%L, %s)', split_part(a.words, ':', 2),
                case
                    when tg_op = 'UPDATE' then format('o.%1$I is distinct from n.%1$I', split_part(a.words, ':', 1))
                    else 'true'
                end
            ), ', '
        )
        from unnest(tg_argv) as a (words)
    );
    source constant text := case
        when tg_op = 'INSERT' then 'new_rows as n'
        when tg_op = 'DELETE' then 'old_rows as n'
        when tg_table_name in ('service_head_meter', 'properties_service_head')
            then '(select * from new_rows union all select * from old_rows) as n cross join lateral '
                '(select null::uuid as service_head, null::uuid as meter, null::uuid as property) as o'
        else 'new_rows as n inner join old_rows as o using (' || case tg_table_name
            when 'meter_registers' then 'register_id' else 'id'
        end || ')'
    end;
begin
    execute format(
        'insert into flows.change (esco, kind, period, dimensions, followed_at) '
        'select owners.esco, ''configuration'', ''(,)'', array_agg(distinct c.dimension), clock_timestamp() '
        'from %1$s cross join lateral (values %2$s) as c (dimension, changed) '
        'cross join lateral (values %3$s) as owners (esco) '
        'where c.changed and owners.esco is not null group by owners.esco',
        source, concerned,
        case when tg_op = 'UPDATE' and source like '%using%' and owner = 'esco'
            then '(n.esco), (o.esco)' else format('(n.%I)', owner) end
    );
    return null;
end $$;
comment on function flows.note_configuration() is 'Records configuration that a statement changed, by its owner.';
do $$
declare
    noted record;
begin
    for noted in
        select * from (values
            ('escos', '{update}'::text[], '{code:esco,name:name}'::text[]),
            ('sites_new', '{update}', '{code:name,name:name}'),
            ('properties', '{update}', '{plot:name}'),
            ('feeder_registry', '{update}', '{name:name}'),
            ('service_head_registry', '{update}', '{feeder:feeder}'),
            ('meter_registry', '{update}', '{serial:meter,esco:esco,site:site,name:name}'),
            ('meter_registers', '{update}', '{meter_id:every}'),
            ('circuits', '{update}', '{type:circuit_type,site:site,name:name}'),
            ('service_head_meter', '{insert,update,delete}', '{meter:property,service_head:feeder}'),
            ('properties_service_head', '{insert,update,delete}', '{property:property}')
        ) as t (name, events, columns)
    loop
        for i in 1 .. cardinality(noted.events) loop
            execute format(
                'create trigger %I after %s on flows.%I referencing %s for each statement '
                'execute function flows.note_configuration(%s)',
                'configuration_is_noted_on_' || noted.events[i], noted.events[i], noted.name,
                case noted.events[i]
                    when 'insert' then 'new table as new_rows'
                    when 'delete' then 'old table as old_rows'
                    else 'old table as old_rows new table as new_rows'
                end,
                (select string_agg(quote_literal(c), ', ') from unnest(noted.columns) as c)
            );
        end loop;
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

create or replace function flows.has_derived() returns boolean
language sql stable security definer set search_path = ''
return exists (
    select from flows.derived_register as d where d.esco = any((select flows.callers_escos())::uuid[])
);
comment on function flows.has_derived() is 'True if any of the caller''s registers has derived half-hours.';
create or replace function flows.derived_registers() returns uuid[]
language sql stable security definer set search_path = ''
return array(
    select d.register_id from flows.derived_register as d
    where d.esco = any((select flows.callers_escos())::uuid[])
);
comment on function flows.derived_registers() is 'The caller''s registers that have derived half-hours.';
grant execute on function flows.has_derived(), flows.derived_registers() to flows, public_backend, grafanareader;

-- Dimensions, `name` among them where names are shown, leave out configuration that has nothing to do with them.
create or replace function flows.concerns(change text[], asked text[]) returns boolean
language sql immutable parallel safe
return change is null or asked is null or change && asked or 'every' = any(change);
comment on function flows.concerns(text[], text[]) is 'True if changed dimensions are among those that are asked for.';

-- The version moves with every change the caller could see in the period, and again when the
-- aggregates have followed it; as_of is the latest moment whose changes are all in. Until a changed
-- mapping is followed, the aggregates are sums over the old one. `seen` are the transactions up to the last of these
-- changes that are not running: it stays while nothing changes. Those of another cluster, or of one that was
-- recovered to an earlier time, are others.
drop function if exists flows.data_state(tstzrange);
create or replace function flows.data_state(
    period tstzrange, dimensions text[],
    out version text, out as_of timestamptz, out remapping boolean, out cluster text, out seen text
)
language sql stable security definer set search_path = ''
begin atomic
    select
        coalesce(sum(c.changes), 0) || '-' || coalesce(max(c.id), 0) || '-'
        || coalesce(sum(c.changes) filter (where c.followed_at is not null), 0),
        coalesce(
            min(c.changed_at) filter (where c.followed_at is null),
            max(c.effective_at)
        ),
        coalesce(bool_or(c.kind = 'mapping' and c.followed_at is null), false),
        (
            select control.system_identifier || '/' || latest.timeline_id
            from pg_catalog.pg_control_system() as control cross join pg_catalog.pg_control_checkpoint() as latest
        ),
        (
            select
                coalesce(min(running.id), latest.stop) || ':' || latest.stop || ':'
                || coalesce(string_agg(running.id::text, ',' order by running.id), '')
            from (
                -- A replica does not know which transactions ran, so all from the first on count as unseen.
                select
                    least(
                        coalesce(max(c.transaction)::text::numeric, 3) + 1,
                        case when pg_catalog.pg_is_in_recovery() then
                            pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text::numeric end
                    ) as stop
            ) as latest
            left join lateral (
                select r.id::text::numeric as id
                from pg_catalog.pg_snapshot_xip(pg_catalog.pg_current_snapshot()) as r (id)
            ) as running on running.id < latest.stop
            group by latest.stop
        )
    from flows.change as c
    where c.period && data_state.period
        and flows.concerns(c.dimensions, data_state.dimensions)
        and (c.esco is null or c.esco = any((select flows.callers_escos())::uuid[]));
end;
comment on function flows.data_state(tstzrange, text[])
is 'Version and latest change of the caller''s data in a period; remapping while aggregates lag behind a mapping.';
grant execute on function flows.data_state(tstzrange, text[]) to flows, public_backend, grafanareader;

-- Changes of transactions that were not seen. Of a moment, which is when a change took effect that was seen,
-- all is known to have been seen that had ended when that was recorded, and what its own transaction did.
drop function if exists flows.changed_since(timestamptz, tstzrange);
create or replace function flows.changed_since(
    moment timestamptz, seen pg_snapshot, period tstzrange, dimensions text[], registers uuid[],
    circuits uuid[]
) returns tstzmultirange
language sql stable security definer set search_path = ''
begin atomic
    with known as (
        select c.horizon, c.transaction
        from flows.change as c
        where c.effective_at <= changed_since.moment
            and (c.esco is null or c.esco = any((select flows.callers_escos())::uuid[]))
        order by c.effective_at desc
        limit 1
    )
    select coalesce(range_agg(c.period * changed_since.period), '{}')
    from flows.change as c
    left join known on true
    where c.period && changed_since.period
        and (c.kind <> 'reading' or c.followed_at is not null)
        and case
            when changed_since.seen is not null
                then not pg_catalog.pg_visible_in_snapshot(c.transaction, changed_since.seen)
            else c.effective_at > changed_since.moment
                or c.transaction >= known.horizon and c.transaction <> known.transaction
        end
        and flows.concerns(c.dimensions, changed_since.dimensions)
        and (
            changed_since.registers is null or c.touched_registers is null
            or c.touched_registers && changed_since.registers or c.touched_circuits && changed_since.circuits
        )
        and (c.esco is null or c.esco = any((select flows.callers_escos())::uuid[]));
end;
comment on function flows.changed_since(timestamptz, pg_snapshot, tstzrange, text[], uuid[], uuid[])
is 'Parts of a period in which figures that the caller can see have changed, since a moment or what was seen.';
grant execute on function flows.changed_since(timestamptz, pg_snapshot, tstzrange, text[], uuid[], uuid[])
to flows, public_backend, grafanareader;

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
            max(o.id) as id, o.esco, o.kind, o.dimensions, range_merge(range_agg(o.period)) as period,
            sum(o.changes) as changes, max(o.changed_at) as changed_at, max(o.followed_at) as followed_at,
            max(o.effective_at) as effective_at, max(o.transaction) as transaction, max(o.horizon) as horizon
        from old as o
        group by o.esco, o.kind, o.dimensions, o.week
        having count(*) > 1
    ), kept as (
        update flows.change as c set
            period = t.period, changes = t.changes, changed_at = t.changed_at, followed_at = t.followed_at,
            effective_at = t.effective_at, transaction = t.transaction, horizon = t.horizon, touched_registers = null,
            touched_circuits = null
        from together as t where c.id = t.id
    ), gone as (
        delete from flows.change as c using old as o, together as t
        where c.id = o.id and c.id <> t.id and o.kind = t.kind and o.esco is not distinct from t.esco
            and o.dimensions is not distinct from t.dimensions
            and o.week is not distinct from date_trunc('week', lower(t.period), 'UTC')
        returning c.id
    )
    select count(*) from gone;
end;
comment on function flows.compact_changes() is 'Merges old changes; returns the number of rows removed.';

reset role;
