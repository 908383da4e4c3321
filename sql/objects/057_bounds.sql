set local role flows_owner;

-- The bounds of what is written, for all doors: tenants' rows are held to them here, imports read them here and
-- refuse the rows by line (app/ingest/bounds.py), and no half-hour beyond them is derived. Administrators' own
-- statements are not held to them: a deployment's past is taken over as it is.
comment on table flows.bounds is 'Bounds of what callers may write; one row.';
comment on column flows.bounds.only_row is 'Always true, so that the table has only one row.';
comment on column flows.bounds.largest_kwh
is 'Most energy in half an hour of a register without a known rating, kWh.';
comment on column flows.bounds.earliest is 'Time before which nothing is written, UTC.';
comment on column flows.bounds.ahead is 'Greatest distance of a time into the future.';
comment on column flows.bounds.request_span is 'Time from the first to the last row that one request may write.';
comment on column flows.bounds.import_span is 'Time from the first to the last row that one import may write.';
comment on column flows.bounds.long_rows_bytes
is 'Greatest size of all rows of more than 2,000 bytes that an ESCO may have in one table, bytes.';
alter table flows.bounds enable row level security;
alter table flows.bounds force row level security;
create policy "every caller is told the bounds" on flows.bounds for select using (true);
create policy "administrators set the bounds" on flows.bounds
to flows_owner, tsdbadmin using (current_user in ('flows_owner', 'tsdbadmin'));
grant select on flows.bounds to flows, tsdbadmin;
grant update on flows.bounds to tsdbadmin;

-- No counter has more than eight digits before the point, and nothing that is measured comes near.
create or replace function flows.largest_number() returns numeric
language sql immutable parallel safe
return 100000000;
comment on function flows.largest_number() is 'Numbers from callers are smaller, whatever they count.';
-- A float written as text has 27 decimals at most, if it is no less than a ten-billionth.
create or replace function flows.is_plausible(number numeric) returns boolean
language sql immutable parallel safe
return number < 100000000 and number > -100000000 and pg_catalog.scale(number) <= 30;
comment on function flows.is_plausible(numeric)
is 'False for a number that nobody measured; NaN is above every number.';

-- Three phases of 230 V for half an hour, and a quarter on top.
create or replace function flows.energy_bound(register uuid, out amps numeric, out largest_kwh numeric)
language sql stable set search_path = ''
begin atomic
    select known.amps, coalesce(round(known.amps * 3 * 0.23 / 2 * 1.25, 1), b.largest_kwh)
    from flows.bounds as b
    cross join (
        select coalesce(
            (
                select max(c.rating_amps) from flows.circuit_register as m
                inner join flows.circuits as c on m.circuit = c.id
                where m.register = energy_bound.register
            ),
            (
                select max(head.fuse_rating) from flows.meter_registers as r
                inner join flows.service_head_meter as link on r.meter_id = link.meter
                inner join flows.service_head_registry as head on link.service_head = head.id
                where r.register_id = energy_bound.register
            )
        ) as amps
    ) as known;
end;
comment on function flows.energy_bound(uuid)
is 'Most energy in half an hour of a register, and the rating it comes from, if one is known.';
grant execute on function flows.largest_number(), flows.is_plausible(numeric), flows.energy_bound(uuid)
to flows, tsdbadmin;

-- All rows of a transaction lie within a span, but for some events, so that nobody makes a chunk for each of many
-- rows: while they are made, others wait with theirs. Only a row of another week than the one before, or of the
-- future, comes here.
create or replace function flows.check_row() returns trigger
language plpgsql
as $$
declare
    given constant jsonb := to_jsonb(new);
    attribute text;
    bounds flows.bounds;
    latest timestamptz;
    span interval;
    strays integer;
    written_from timestamptz := pg_catalog.to_timestamp(nullif(current_setting('flows.written_from', true), '')::float8);
    written_to timestamptz := pg_catalog.to_timestamp(nullif(current_setting('flows.written_to', true), '')::float8);
    week constant timestamptz := pg_catalog.date_bin('7 days', new."timestamp", '1970-01-01 00:00Z');
begin
    foreach attribute in array coalesce(tg_argv, '{}') loop
        if not flows.is_plausible((given ->> attribute)::numeric) then
            raise sqlstate 'PT422' using message = format(
                '%s: must be a number below 100,000,000 with at most 30 decimals', attribute
            );
        end if;
    end loop;
    if (new."timestamp" >= written_from and new."timestamp" < written_to) is not true then
        select * into bounds from flows.bounds;
        latest := now() + bounds.ahead;
        span := case current_setting('flows.importing', true) when 'on' then bounds.import_span else bounds.request_span end;
        if new."timestamp" < bounds.earliest then
            raise sqlstate 'PT422' using message = format(
                'timestamp: %s is before %s', new."timestamp" at time zone 'UTC', bounds.earliest at time zone 'UTC'
            );
        elsif new."timestamp" > latest then
            raise sqlstate 'PT422' using message = format(
                'timestamp: %s is more than %s in the future', new."timestamp" at time zone 'UTC', bounds.ahead
            );
        end if;
        written_from := least(written_from, greatest(week, bounds.earliest));
        written_to := greatest(written_to, week + interval '7 days');
        -- Whole weeks are compared, so a few days more than the span may pass.
        if written_from + span + interval '7 days' < week or new."timestamp" + span + interval '7 days' < written_to then
            -- A meter that lost its clock logs events of 2000 among those of today, and is read in one request.
            strays := coalesce(nullif(current_setting('flows.stray_events', true), '')::integer, 0) + 1;
            if not given ? 'event_type' or strays > 200 then
                raise sqlstate 'PT422' using
                    message = format('timestamp: what is written at once spans more than %s', span),
                    hint = 'Send them in parts, in the order of time.';
            end if;
            perform pg_catalog.set_config('flows.stray_events', strays::text, true);
            return new;
        end if;
        written_to := least(written_to, latest);
        perform pg_catalog.set_config('flows.written_from', pg_catalog.date_part('epoch', written_from)::text, true);
        perform pg_catalog.set_config('flows.written_to', pg_catalog.date_part('epoch', written_to)::text, true);
    end if;
    -- Its rows pass by, up to now.
    if written_from <= week and least(week + interval '7 days', now()) <= written_to then
        perform pg_catalog.set_config(
            'flows.written_week', (pg_catalog.date_part('epoch', week) / 604800)::text, true
        );
    end if;
    return new;
end $$;
comment on function flows.check_row()
is 'Refuses values and times of a series outside the bounds, and rows that span too much.';

create or replace function flows.refuse_value() returns trigger
language plpgsql
as $$
begin
    raise sqlstate 'PT422' using message = format('%s: %s', tg_argv[0], tg_argv[1]);
end $$;
comment on function flows.refuse_value() is 'Refuses a value outside the bounds.';

-- One look at the largest of each register's half-hours, when all of a statement are written.
create or replace function flows.check_energy() returns trigger
language plpgsql
as $$
declare
    excess record;
begin
    if flows.sees_every_esco() then
        return null;
    end if;
    select n.register_id, n.largest, b.* into excess
    from (
        select w.register_id, max(greatest(w.import_kwh, w.export_kwh)) as largest
        from new_rows as w
        group by 1
    ) as n
    cross join lateral flows.energy_bound(n.register_id) as b
    where n.largest > b.largest_kwh
    limit 1;
    if excess.register_id is not null then
        raise sqlstate 'PT422' using
            message = format(
                'import_kwh, export_kwh: %s kWh in half an hour is more than the %s kWh believed%s',
                trim_scale(excess.largest), trim_scale(excess.largest_kwh),
                coalesce(format(' at a rating of %s A', trim_scale(excess.amps)), '')
            ),
            detail = format('register_id=%s', excess.register_id);
    end if;
    return null;
end $$;
comment on function flows.check_energy() is 'Refuses half-hours with more energy than their registers can have.';
create trigger a_half_hour_is_plausible after insert on flows.register_interval_hh
referencing new table as new_rows for each statement execute function flows.check_energy();
create trigger a_changed_half_hour_is_plausible after update on flows.register_interval_hh
referencing new table as new_rows for each statement execute function flows.check_energy();

-- PostgreSQL and PostgREST hold an answer whole, several times over. A row of configuration has some hundred bytes;
-- those that are long are few, however many rows an answer may have. One look at all of an ESCO's, when a long one is
-- written: row level security would ask the writer for the right to read them.
create or replace function flows.check_long_rows() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    most constant bigint := (select b.long_rows_bytes from flows.bounds as b);
    written bigint;
begin
    if not exists (select from new_rows as n where octet_length(row_to_json(n)::text) > 2000) then
        return null;
    end if;
    execute format(
        'select sum(r.bytes) from (select octet_length(row_to_json(t)::text) as bytes from flows.%I as t where t.esco = $1)'
        ' as r where r.bytes > 2000', tg_table_name
    ) into written using flows.current_esco();
    if written > most then
        raise sqlstate 'PT422' using
            message = format('%s: rows of more than 2,000 bytes have at most %s bytes together', tg_table_name, most),
            hint = 'Shorten texts, or write fewer long ones.';
    end if;
    return null;
end $$;
comment on function flows.check_long_rows() is 'Refuses long rows beyond those that an ESCO may have in a table.';
grant execute on function
flows.check_row(), flows.refuse_value(), flows.check_energy(), flows.check_long_rows() to flows, tsdbadmin;

-- Every value that a caller may write. The conditions are tested where rows are written, those first that hold for
-- no row of a tenant's; only a row to refuse, or one of another week, calls the function.
do $$
declare
    written constant text := $when$
        current_setting('flows.written_week', true)
        is distinct from pg_catalog.floor(pg_catalog.date_part('epoch', new."timestamp") / 604800)::text
        or new."timestamp" > now()
    $when$;
    found record;
    bound record;
begin
    for found in
        select
            s.name, coalesce(v.conditions, '') as conditions, coalesce(v.columns, '') as columns,
            coalesce(v.arguments, '') as arguments
        from flows.series() as s
        left join lateral (
            select
                string_agg(format(' or not flows.is_plausible(new.%I)', a.attname), '') as conditions,
                string_agg(format(', %I', a.attname), '') as columns,
                string_agg(quote_literal(a.attname), ', ') as arguments
            from pg_catalog.pg_attribute as a
            where a.attrelid = format('flows.%I', s.name)::regclass and a.attnum > 0 and not a.attisdropped
                and a.atttypid = 'numeric'::regtype
        ) as v on true
        where s.key <> 'circuit_id'
    loop
        execute format(
            'create trigger bounds_of_row before insert on flows.%I for each row '
            'when ((%s%s) and not flows.sees_every_esco()) execute function flows.check_row(%s)',
            found.name, written, found.conditions, found.arguments
        );
        execute format(
            'create trigger bounds_of_changed_row before update of "timestamp"%s on flows.%I for each row '
            'when ((new."timestamp" is distinct from old."timestamp"%s) and not flows.sees_every_esco()) '
            'execute function flows.check_row(%s)',
            found.columns, found.name, found.conditions, found.arguments
        );
    end loop;

    for found in
        select
            c.relname as name, a.attname as attribute,
            case
                -- An index holds 2,704 bytes of a row, whatever its characters are.
                when a.atttypid = 'text'::regtype and exists (
                    select from pg_catalog.pg_index as i where i.indrelid = c.oid and a.attnum = any(i.indkey)
                ) then 'indexed text'
                else format_type(a.atttypid, null)
            end as type
        from pg_catalog.pg_class as c
        inner join pg_catalog.pg_attribute as a on c.oid = a.attrelid
        where c.relnamespace = 'flows'::regnamespace
            and a.attnum > 0 and not a.attisdropped
            and a.atttypid in ('numeric'::regtype, 'text'::regtype, 'jsonb'::regtype)
            and c.relname in (
                'sites_new', 'properties', 'feeder_registry', 'service_head_registry', 'meter_registry',
                'meter_registers', 'meter_tophat_registry', 'meter_shadows', 'circuits', 'ev_chargers',
                'circuit_register', 'meter_health_history'
            )
        order by 1, a.attnum
    loop
        select * into bound from (values
            ('numeric', 'not flows.is_plausible(new.%I)', 'must be a number below 100,000,000 with at most 30 decimals'),
            ('indexed text', 'pg_catalog.octet_length(new.%I) > 2000', 'must have at most 2,000 bytes'),
            ('text', 'pg_catalog.char_length(new.%I) > 2000', 'must have at most 2,000 characters'),
            ('jsonb', 'pg_catalog.octet_length(new.%I::text) > 65536', 'must have at most 65,536 bytes')
        ) as b (type, condition, message)
        where b.type = found.type;
        execute format(
            'create trigger %1$I before insert or update of %2$I on flows.%3$I for each row '
            'when (%4$s and not flows.sees_every_esco()) execute function flows.refuse_value(%2$L, %5$L)',
            'bounds_of_' || found.attribute, found.attribute, found.name,
            format(bound.condition, found.attribute), bound.message
        );
    end loop;

    for found in
        select s.name, e.event
        from unnest(array[
            'sites_new', 'properties', 'feeder_registry', 'service_head_registry', 'meter_registry', 'meter_registers',
            'meter_tophat_registry', 'meter_shadows', 'circuits', 'ev_chargers', 'circuit_register'
        ]) as s (name)
        cross join unnest(array['insert', 'update']) as e (event)
    loop
        execute format(
            'create trigger %I after %s on flows.%I referencing new table as new_rows for each statement '
            'when (not flows.sees_every_esco()) execute function flows.check_long_rows()',
            'long_rows_are_few_after_' || found.event, found.event, found.name
        );
    end loop;
end $$;

reset role;
