set local role flows_owner;

comment on table gateway.import is 'Imports of files by POST /v1/imports, kept for thirty days.';
comment on column gateway.import.id is 'Id of the import.';
comment on column gateway.import.esco is 'ESCO whose registers it writes into.';
comment on column gateway.import.client is 'Client that sent the file.';
comment on column gateway.import.digest is 'SHA-256 of the file''s content and the options, in hexadecimal.';
comment on column gateway.import.file_name is 'Name of the file, as the client gave it.';
comment on column gateway.import.size is 'Number of bytes of the file.';
comment on column gateway.import.options is 'Options that the file is read with.';
comment on column gateway.import.state is 'State: waiting, running, done, or failed.';
comment on column gateway.import.run is 'Id of the latest attempt; an earlier one can no longer end the import.';
comment on column gateway.import.rows_read is 'Number of rows of the file that have been read.';
comment on column gateway.import.error is 'Reason for which nothing was written; empty unless it has failed.';
comment on column gateway.import.report is 'Outcome of the import, with the refused rows; empty until it has ended.';
comment on column gateway.import.created_at is 'Time at which the file was received, UTC.';
comment on column gateway.import.started_at is 'Time at which the import began, UTC.';
comment on column gateway.import.finished_at is 'Time at which it ended, UTC.';
comment on column gateway.import.alive_at is 'Time at which its gateway last told that it still has it, UTC.';

alter table gateway.import enable row level security;
alter table gateway.import force row level security;
create policy "only the functions below read and write imports" on gateway.import
to flows_owner using (current_user = 'flows_owner');

-- A gateway tells every few seconds that it still has an import. One that it stopped telling of died with
-- the gateway: nothing was written, as writing it and noting its end is one transaction.
create or replace function gateway.is_lost(state text, alive_at timestamptz) returns boolean
language sql stable set search_path = ''
return state in ('waiting', 'running') and alive_at < now() - interval '1 minute';
comment on function gateway.is_lost(text, timestamptz) is 'True for an import whose gateway has gone.';

-- Called in a caller's session, so that the database decides whose import it is.
create or replace function gateway.begin_import(
    run uuid, digest text, file_name text, size bigint, options jsonb, out id uuid, out begun boolean
)
language plpgsql security definer set search_path = ''
as $$
declare
    tenant constant uuid := flows.current_esco();
    claims constant jsonb := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
begin
    if tenant is null or not 'write' = any(string_to_array(claims ->> 'scope', ' ')) then
        raise sqlstate 'PT403' using message = 'The token has no scope write';
    end if;
    delete from gateway.import as old
    where old.esco = tenant and old.created_at < now() - interval '30 days'
        and (old.state in ('done', 'failed') or gateway.is_lost(old.state, old.alive_at));
    insert into gateway.import as known (esco, client, digest, file_name, size, options, run)
    values (
        tenant, claims ->> 'client_id', begin_import.digest, begin_import.file_name, begin_import.size,
        begin_import.options, begin_import.run
    )
    on conflict on constraint import_esco_digest_key do update set
        client = excluded.client, file_name = excluded.file_name, run = excluded.run, state = 'waiting',
        rows_read = 0, error = null, report = null, created_at = now(), started_at = null,
        finished_at = null, alive_at = now()
    where known.state = 'failed' or gateway.is_lost(known.state, known.alive_at);
    select known.id, known.run = begin_import.run into begin_import.id, begin_import.begun
    from gateway.import as known
    where known.esco = tenant and known.digest = begin_import.digest;
end $$;
comment on function gateway.begin_import(uuid, text, text, bigint, jsonb)
is 'Begins an import of the caller''s ESCO, or finds the one with the same content, which has not failed.';

create or replace function gateway.read_import(import uuid) returns table (
    id uuid, state text, file_name text, size bigint, options jsonb, rows_read bigint, error text, report jsonb,
    created_at timestamptz, started_at timestamptz, finished_at timestamptz
)
language sql stable security definer set search_path = ''
begin atomic
    select
        known.id,
        case when gateway.is_lost(known.state, known.alive_at) then 'failed' else known.state end,
        known.file_name, known.size, known.options, known.rows_read,
        case
            when gateway.is_lost(known.state, known.alive_at)
                then 'The gateway was stopped before the import had ended, so nothing was written; send the file again.'
            else known.error
        end,
        known.report, known.created_at, known.started_at,
        case when gateway.is_lost(known.state, known.alive_at) then known.alive_at else known.finished_at end
    from gateway.import as known
    where known.id = read_import.import and known.esco = flows.current_esco();
end;
comment on function gateway.read_import(uuid) is 'An import of the caller''s ESCO.';
grant execute on function gateway.begin_import(uuid, text, text, bigint, jsonb) to flows;
grant execute on function gateway.read_import(uuid) to flows, public_backend;

-- An estimate is marked as derived, so that a measurement replaces it.
create or replace function gateway.note_estimates(registers uuid[]) returns void
language sql security definer set search_path = ''
begin atomic
    insert into flows.derived_register (register_id)
    select register.register_id
    from flows.meter_registers as register
    inner join flows.meter_registry as meter on register.meter_id = meter.id
    where register.register_id = any(note_estimates.registers) and meter.esco = flows.current_esco()
    on conflict do nothing;
end;
comment on function gateway.note_estimates(uuid[]) is 'Records registers of the caller''s ESCO that have estimates.';
grant execute on function gateway.note_estimates(uuid[]) to flows;

-- Called by the gateway that has the file.
create or replace function gateway.start_import(import uuid, run uuid) returns boolean
language sql security definer set search_path = ''
begin atomic
    with started as (
        update gateway.import as known set state = 'running', started_at = now(), alive_at = now()
        where known.id = start_import.import and known.run = start_import.run and known.state = 'waiting'
        returning known.id
    )
    select count(*) > 0 from started;
end;
comment on function gateway.start_import(uuid, uuid)
is 'Notes that an import begins; false if it is another''s by now.';

create or replace function gateway.keep_imports(runs uuid[], counts bigint[]) returns void
language sql security definer set search_path = ''
begin atomic
    update gateway.import as known set alive_at = now(), rows_read = told.rows_read
    from unnest(keep_imports.runs, keep_imports.counts) as told (run, rows_read)
    where known.run = told.run and known.state in ('waiting', 'running');
end;
comment on function gateway.keep_imports(uuid[], bigint[])
is 'Notes that a gateway still has these imports, and the rows it has read.';

create or replace function gateway.finish_import(
    run uuid, state text, rows_read bigint, error text, report jsonb
) returns boolean
language sql security definer set search_path = ''
begin atomic
    with finished as (
        update gateway.import as known set
            state = finish_import.state, error = finish_import.error, report = finish_import.report,
            rows_read = finish_import.rows_read, finished_at = clock_timestamp()
        where known.run = finish_import.run and known.state in ('waiting', 'running')
        returning known.id
    )
    select count(*) > 0 from finished;
end;
comment on function gateway.finish_import(uuid, text, bigint, text, jsonb)
is 'Notes the end of an import; false if it is another''s by now.';
grant execute on function
gateway.start_import(uuid, uuid), gateway.keep_imports(uuid[], bigint[]),
gateway.finish_import(uuid, text, bigint, text, jsonb)
to flows_gateway;

reset role;
