set local role flows_owner;
comment on table gateway.client is 'Clients: machines that may request tokens, for one ESCO each or for the platform.';
comment on column gateway.client.id is 'Client id.';
comment on column gateway.client.esco is 'ESCO that the client acts for; empty for a client of the platform.';
comment on column gateway.client.name is 'Name of the client, for people.';
comment on column gateway.client.role is 'Database role of its tokens if they have all of its scopes.';
comment on column gateway.client.scopes is 'Scopes that it may request: read, write, admin.';
comment on column gateway.client.lifetime_seconds is 'Lifetime of its tokens, s.';
comment on column gateway.client.created_at is 'Time at which it was created, UTC.';
comment on column gateway.client.last_used_at is 'Time at which it last got a token, UTC.';
comment on column gateway.client.expires_at is 'Time at which it expires, UTC.';
comment on column gateway.client.disabled_at is 'Time at which it was disabled, UTC.';
comment on table gateway.client_secret
is 'Hashes of the secrets of clients; at most two each, so that one can be replaced without a gap.';
comment on column gateway.client_secret.id is 'Id of the secret.';
comment on column gateway.client_secret.client is 'Client that it belongs to.';
comment on column gateway.client_secret.digest is 'SHA-256 of the secret; empty until an older secret is used again.';
comment on column gateway.client_secret.hash is 'Argon2 hash of the secret, for gateways that know no digest.';
comment on column gateway.client_secret.created_at is 'Time at which it was created, UTC.';
comment on table gateway.disabled_esco is 'ESCOs whose clients and tokens do not work.';
comment on column gateway.disabled_esco.esco is 'The ESCO.';
comment on column gateway.disabled_esco.disabled_at is 'Time at which it was disabled, UTC.';
comment on table gateway.token is 'Long-lived tokens that an operator issued for a job.';
comment on column gateway.token.jti is 'Id of the token.';
comment on column gateway.token.kid is 'Key that signed it.';
comment on column gateway.token.esco is 'ESCO of the token.';
comment on column gateway.token.role is 'Database role of the token.';
comment on column gateway.token.name is 'Purpose of the token.';
comment on column gateway.token.created_at is 'Time at which it was issued, UTC.';
comment on column gateway.token.expires_at is 'Time at which it expires, UTC.';
comment on table gateway.revoked_token is 'Tokens that stopped working before they expired.';
comment on column gateway.revoked_token.jti is 'Id of the token.';
comment on column gateway.revoked_token.expires_at
is 'Time at which it would have expired, UTC; the row is kept until then.';
comment on column gateway.revoked_token.revoked_at is 'Time at which it was revoked, UTC.';
comment on table gateway.proof is 'The last proof of isolation: the result of flows prove; one row.';
comment on column gateway.proof.only_row is 'Always true, so that the table has only one row.';
comment on column gateway.proof.ended_at is 'Time at which it ended, UTC.';
comment on column gateway.proof.seconds is 'Time that it took, s.';
comment on column gateway.proof.tried is 'Number of ways that were tried.';
comment on column gateway.proof.broken is 'Relations and paths where isolation did not hold; none if it held.';
comment on table gateway.shared_secret is 'A key that all gateways have and no caller; one row.';
comment on column gateway.shared_secret.only_row is 'Always true, so that the table has only one row.';
comment on column gateway.shared_secret.key
is 'Encrypts what callers keep for the gateways, and makes their ETags.';
comment on table gateway.last_backup is 'The newest backup that ended well; one row.';
comment on column gateway.last_backup.only_row is 'Always true, so that the table has only one row.';
comment on column gateway.last_backup.ended_at is 'Time at which it ended, UTC.';
comment on column gateway.last_backup.kind is 'Kind: full or incremental.';
comment on column gateway.last_backup.size is 'Bytes of its files.';
comment on table gateway.usage
is 'Requests of each client on a day: no row stands for what a gateway has not yet added.';
comment on column gateway.usage.day is 'Day, UTC.';
comment on column gateway.usage.client is 'Client, app or token.';
comment on column gateway.usage.esco is 'ESCO that it acted for; empty for a client of the platform.';
comment on column gateway.usage.calls is 'Requests with a valid token, refused ones too.';
comment on column gateway.usage.rows is 'Rows that were returned, or changed by PATCH and DELETE.';
comment on column gateway.usage.bytes is 'Bytes of the bodies of responses as they were sent, compressed ones too.';
comment on column gateway.usage.received is 'Bodies of requests, of refused ones as far as they were read, bytes.';
comment on table gateway.signing_key is 'Public keys that verify tokens.';
comment on column gateway.signing_key.kid is 'RFC 7638 thumbprint.';
comment on column gateway.signing_key.public_jwk is 'RFC 7517 public key.';
comment on column gateway.signing_key.created_at is 'Time at which it was published, UTC.';
comment on column gateway.signing_key.signs_from
is 'Time at which it begins to sign, UTC, once the gateways and PostgREST have loaded it.';
comment on column gateway.signing_key.verifies_until
is 'Time from which its tokens are refused, UTC; empty while it is in use.';
comment on table gateway.audit is 'Audit log of all issues, refusals, rotations, revocations and changes; append-only.';
comment on column gateway.audit.id is 'Number of the entry.';
comment on column gateway.audit.at is 'Time of the action, UTC.';
comment on column gateway.audit.actor is 'Id of the client or member that acted, or operator for the command line.';
comment on column gateway.audit.action is 'Action that was carried out or refused.';
comment on column gateway.audit.esco is 'ESCO that the action concerns.';
comment on column gateway.audit.subject
is 'Object of the action: id of a client, member, app, token or key, URL of an issuer, or code of an ESCO.';
comment on column gateway.audit.detail
is 'Particulars: scopes granted or requested, members changed and their new values.';
comment on column gateway.audit.address is 'IP address of the actor.';
comment on column gateway.audit.outcome is 'Outcome: done, or the reason of the refusal.';

create or replace function gateway.refuse_change() returns trigger
language plpgsql set search_path = ''
as $$
begin
    raise exception 'the audit log is append-only' using errcode = 'insufficient_privilege';
end $$;
comment on function gateway.refuse_change() is 'Refuses changes of the audit log.';
create trigger entries_stay before update or delete or truncate on gateway.audit
for each statement execute function gateway.refuse_change();

-- The check before each request: PostgREST runs it as its pre-request, and the gateway in each of its
-- own sessions. A caller that passes has an ESCO, or a role that needs none. All is looked up by keys, for which one
-- plan is right: to plan anew takes longer than to look.
create or replace function gateway.authorize() returns void
language plpgsql security definer set search_path = '' set plan_cache_mode = force_generic_plan
as $$
declare
    claims jsonb := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
    uuid_form constant text := '^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$';
    tenant text := '';
    headers json := nullif(current_setting('request.headers', true), '')::json;
    query text := headers ->> 'x-flows-query';
    seconds text := headers ->> 'x-flows-seconds';
    -- A filter reads as much as what it finds; only an insert that returns nothing does not.
    reads boolean := coalesce(current_setting('request.method', true), '') <> 'POST'
        or coalesce(current_setting('request.path', true) like '/rpc/%', false)
        or coalesce(headers ->> 'prefer' ~ 'return *= *representation', false);
    is_resident boolean := coalesce(claims ->> 'role' = 'resident', false);
    is_known boolean;
begin
    -- The gateway's name for the request, kept until the transaction ends, for gateway.cancel_queries.
    if query ~ '^[0-9a-f]{32}$' then
        perform set_config('application_name', query, true);
    end if;
    -- For a query whose rows may multiply with its caller's links, unless its role has less.
    if seconds ~ '^[1-9]$'
        and coalesce(nullif(current_setting('statement_timeout'), '0')::interval > (seconds || 's')::interval, true)
    then
        perform set_config('statement_timeout', seconds || 's', true);
    end if;
    if not coalesce(claims -> 'aud' ? 'flows' or claims ->> 'aud' = 'flows', false) then
        raise sqlstate 'PT401' using message = 'The token is not for this service';
    end if;
    if claims ->> 'role' <> 'grafanareader' then
        if claims ->> 'role' not in ('flows', 'public_backend', 'resident')
            or not coalesce(claims ->> 'esco' ~ uuid_form, false) then
            raise sqlstate 'PT403' using message = 'The token names no ESCO';
        end if;
        tenant := claims ->> 'esco';
    end if;
    if reads and not 'read' = any(string_to_array(claims ->> 'scope', ' ')) then
        raise sqlstate 'PT403' using message = 'The token has no scope read';
    end if;
    if coalesce(claims ->> 'jti', '') = ''
        or exists (select from gateway.revoked_token as r where r.jti = claims ->> 'jti')
        or exists (
            select from gateway.client as c where c.id = claims ->> 'client_id'
            and (c.disabled_at is not null or c.expires_at <= now())
        )
        or (tenant <> '' and exists (select from gateway.disabled_esco as d where d.esco = tenant::uuid)) then
        raise sqlstate 'PT401' using message = 'The token is no longer valid';
    end if;
    if is_resident then
        is_known := flows.enter_as_resident(claims ->> 'sub', tenant::uuid);
    end if;
    -- A person's token: the person, whoever acts for the person, and the app. Who became a resident no longer reads as
    -- one of the ESCO's staff. A resident is somebody, but for the gateway itself, which looks what residents may read.
    if claims ->> 'sub' <> claims ->> 'client_id' then
        if not is_resident then
            is_known := not exists (
                select from gateway.member as m
                where m.id = claims ->> 'sub' and (m.disabled_at is not null or m.resident)
            );
        end if;
        if not is_known
            or exists (
                select from gateway.member as m
                where m.id = claims -> 'act' ->> 'sub' and m.disabled_at is not null
            )
            or exists (select from gateway.app as a where a.id = claims ->> 'client_id' and a.disabled_at is not null)
        then
            raise sqlstate 'PT401' using message = 'The token is no longer valid';
        end if;
    end if;
    -- A role may change its own settings in SQL, also to no limit at all: that would be every tenant's.
    if tenant <> '' and current_setting('flows.importing', true) is distinct from 'on'
        and current_setting('statement_timeout')::interval not between '1 ms' and '5 minutes' then
        perform set_config('statement_timeout', '30s', true);
    end if;
    perform set_config('app.current_esco', tenant, true);
end $$;
comment on function gateway.authorize()
is 'Refuses revoked tokens and sets the caller''s ESCO, and what is a resident''s own.';
grant execute on function gateway.authorize() to flows, public_backend, resident, grafanareader;

-- PostgREST keeps running a query whose client has disconnected, so the gateway cancels it. Two things
-- keep this from cancelling anything else: the owner may signal only sessions of the login
-- authenticator, and a session has the name, which only the gateway knows, only during that
-- transaction. The names are read before any signal is sent: in one query the planner might signal first.
create or replace function gateway.cancel_queries(queries text[]) returns text[]
language sql security definer set search_path = ''
begin atomic
    with running as materialized (
        select a.pid, a.application_name as query from pg_catalog.pg_stat_activity as a
        where a.usename = 'authenticator' and a.state <> 'idle'
            and a.application_name = any(cancel_queries.queries)
            and a.application_name ~ '^[0-9a-f]{32}$'
    )
    select coalesce(array_agg(r.query), '{}') from running as r
    where pg_catalog.pg_cancel_backend(r.pid);
end;
comment on function gateway.cancel_queries(text[])
is 'Cancels those of the named requests that PostgREST is running; returns their names.';
grant execute on function gateway.cancel_queries(text[]) to flows_gateway;

-- Without an ESCO the row is of changes that concern all of them. An ESCO that is up to date has no row.
create or replace function gateway.changes_behind()
returns table (esco text, changes bigint, seconds double precision)
language sql stable security definer set search_path = ''
begin atomic
    select escos.code, count(*), extract(epoch from clock_timestamp() - min(waiting.changed_at))::double precision
    from flows.change as waiting
    left join flows.escos on waiting.esco = escos.id
    where waiting.followed_at is null
    group by escos.id, escos.code;
end;
comment on function gateway.changes_behind()
is 'The changes that the aggregates lack, by ESCO: their number, and the age of the oldest, s.';
grant execute on function gateway.changes_behind() to flows_gateway;

-- A relation of a further schema decides itself who sees a row: by row level security, or as a view that reads as
-- its caller or is a barrier.
create or replace function gateway.unguarded_relations(schemas text[])
returns table (schema text, relation text, reason text)
language sql stable set search_path = ''
begin atomic
    select asked.name, '', 'there is no such schema'
    from unnest(schemas) as asked (name)
    where not exists (select from pg_catalog.pg_namespace as n where n.nspname = asked.name)
    union all
    select
        n.nspname::text, c.relname::text,
        case
            when c.relkind in ('r', 'p') then 'the table has no row level security'
            when c.relkind = 'v' then 'the view is neither security_invoker nor security_barrier'
            else 'neither materialized views nor foreign tables have row level security'
        end
    from pg_catalog.pg_class as c
    inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
    where n.nspname = any(schemas) and c.relkind in ('r', 'p', 'v', 'm', 'f') and not c.relispartition
        and not case
            when c.relkind in ('r', 'p') then c.relrowsecurity
            when c.relkind = 'v' then exists (
                select from pg_catalog.pg_options_to_table(c.reloptions) as o
                where o.option_name in ('security_invoker', 'security_barrier') and o.option_value::boolean
            )
            else false
        end
    union all
    select
        n.nspname::text, pg_catalog.format('%s(%s)', p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid)),
        'the function is security definer, so it reads as its owner whoever calls it'
    from pg_catalog.pg_proc as p
    inner join pg_catalog.pg_namespace as n on p.pronamespace = n.oid
    where n.nspname = any(schemas) and p.prosecdef
        and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
        and exists (
            select from unnest(array['flows', 'public_backend', 'resident']) as caller (role)
            where pg_catalog.has_function_privilege(caller.role, p.oid, 'execute')
        )
    order by 1, 2;
end;
comment on function gateway.unguarded_relations(text[])
is 'Relations and functions of further schemas that do not decide who sees a row, and schemas that are not there.';
grant execute on function gateway.unguarded_relations(text[]) to flows_gateway;

-- Those that `flows db migrate` was told of, without any that has come to show too much since.
create or replace function gateway.exposed_schemas() returns text[]
language sql stable set search_path = ''
begin atomic
    select array(
        select asked.name
        from unnest(string_to_array(nullif(current_setting('flows.exposed_schemas', true), ''), ', ')) as asked (name)
        where not exists (select from gateway.unguarded_relations(array[asked.name]))
        order by 1
    );
end;
comment on function gateway.exposed_schemas() is 'The further schemas that PostgREST exposes.';

create or replace function gateway.postgrest_config() returns void
language plpgsql security definer set search_path = ''
as $$
begin
    perform set_config(
        'pgrst.db_schemas', array_to_string(array['api'] || gateway.exposed_schemas(), ', '), true
    );
    perform set_config(
        'pgrst.jwt_secret',
        (
            select jsonb_build_object('keys', coalesce(jsonb_agg(k.public_jwk), '[]'))::text
            from gateway.signing_key as k
            where (k.verifies_until is null or k.verifies_until > now())
                -- PostgREST refuses every token where one of the keys cannot be read.
                and k.public_jwk ->> 'kty' = 'RSA'
                and k.public_jwk ->> 'n' ~ '^[A-Za-z0-9_-]+$'
                and k.public_jwk ->> 'e' ~ '^[A-Za-z0-9_-]+$'
        ),
        true
    );
end $$;
comment on function gateway.postgrest_config()
is 'Gives PostgREST the keys that verify tokens, and the schemas that it exposes.';
grant execute on function gateway.postgrest_config() to authenticator;

-- Makes PostgREST reload its keys, and every gateway the state that decides whether tokens are valid.
create or replace function gateway.announce() returns trigger
language plpgsql set search_path = ''
as $$
begin
    if tg_table_name = 'signing_key' then
        perform pg_catalog.pg_notify('pgrst', 'reload config');
    end if;
    perform pg_catalog.pg_notify('flows_tokens', '');
    return null;
end $$;
comment on function gateway.announce()
is 'Notifies gateways and PostgREST of changes of keys, clients and revocations.';
do $$
declare
    announced text;
begin
    foreach announced in array array['signing_key', 'revoked_token', 'disabled_esco'] loop
        execute format(
            'create trigger changes_are_announced after insert or update or delete on gateway.%I '
            'for each statement execute function gateway.announce()', announced
        );
    end loop;
end $$;
create trigger changes_are_announced after update of disabled_at, expires_at on gateway.client
for each statement execute function gateway.announce();

create or replace function gateway.engine() returns text
language sql stable security definer set search_path = ''
return flows.engine();
comment on function gateway.engine() is 'The engine that stores the time series: timescale or postgres.';

-- The gateway's login has no rights on the data; of ESCOs it can only list and create names.
create or replace function gateway.escos() returns table (id uuid, code text, name text, disabled_at timestamptz)
language sql stable security definer set search_path = ''
begin atomic
    select e.id, e.code, e.name, d.disabled_at
    from flows.escos as e left join gateway.disabled_esco as d on e.id = d.esco
    order by e.code;
end;
comment on function gateway.escos() is 'All ESCOs, and the times since which they are disabled.';
create or replace function gateway.create_esco(code text, name text) returns uuid
language sql security definer set search_path = ''
begin atomic
    insert into flows.escos (code, name) values (create_esco.code, create_esco.name) returning id;
end;
comment on function gateway.create_esco(text, text) is 'Creates an ESCO; returns its id.';
grant execute on function gateway.engine(), gateway.escos(), gateway.create_esco(text, text) to flows_gateway;

grant select, insert, update on gateway.client, gateway.signing_key to flows_gateway;
grant select, insert, delete on gateway.client_secret, gateway.disabled_esco, gateway.revoked_token to flows_gateway;
grant update (digest) on gateway.client_secret to flows_gateway;
grant select, insert on gateway.token, gateway.audit to flows_gateway;
grant select, insert, update on gateway.usage to flows_gateway;
grant select on gateway.proof, gateway.last_backup, gateway.shared_secret to flows_gateway;

reset role;
