-- migrate:up
set local role flows_owner;

-- Clients are machines with an id and up to two secrets. One without an ESCO is the platform's: it
-- monitors (grafanareader) or administers (operator, which is no role of the database: no data).
create table gateway.client (
    id text primary key check (id ~ '^[A-Za-z0-9_.:-]{1,64}$'),
    esco uuid references flows.escos on delete cascade,
    name text not null check (length(name) between 1 and 200),
    role text not null check (role in ('flows', 'public_backend', 'grafanareader', 'operator')),
    scopes text[] not null check (scopes <@ array['read', 'write', 'admin'] and scopes <> '{}'),
    lifetime_seconds integer not null default 3600 check (lifetime_seconds > 0),
    created_at timestamptz not null default now(),
    last_used_at timestamptz,
    expires_at timestamptz,
    disabled_at timestamptz,
    check ((esco is null) = (role in ('grafanareader', 'operator')))
);
create index on gateway.client (esco);
comment on table gateway.client is 'Machines that may ask for tokens: of one ESCO each, or of the platform.';
comment on column gateway.client.id is 'Client id.';
comment on column gateway.client.esco is 'ESCO it acts for; empty for the platform''s own.';
comment on column gateway.client.name is 'What the client is, for people.';
comment on column gateway.client.role is 'Role its tokens have when they may do all their scopes allow.';
comment on column gateway.client.scopes is 'What it may ask for: read, write, admin.';
comment on column gateway.client.lifetime_seconds is 'How long its tokens are valid, s.';
comment on column gateway.client.created_at is 'When it was made, UTC.';
comment on column gateway.client.last_used_at is 'When it last got a token, UTC.';
comment on column gateway.client.expires_at is 'When it stops working by itself, UTC.';
comment on column gateway.client.disabled_at is 'When it was disabled, UTC.';

create table gateway.client_secret (
    id uuid primary key default gen_random_uuid(),
    client text not null references gateway.client on delete cascade,
    hash text not null,
    created_at timestamptz not null default now()
);
create index on gateway.client_secret (client);
comment on table gateway.client_secret
is 'Secrets of clients, as hashes; two at most, so that one can be replaced without a gap.';
comment on column gateway.client_secret.id is 'Id of the secret.';
comment on column gateway.client_secret.client is 'Client it belongs to.';
comment on column gateway.client_secret.hash is 'Argon2 hash of the secret.';
comment on column gateway.client_secret.created_at is 'When it was made, UTC.';

create table gateway.disabled_esco (
    esco uuid primary key references flows.escos on delete cascade,
    disabled_at timestamptz not null default now()
);
comment on table gateway.disabled_esco is 'ESCOs whose clients and tokens do not work.';
comment on column gateway.disabled_esco.esco is 'The ESCO.';
comment on column gateway.disabled_esco.disabled_at is 'Since when, UTC.';

create table gateway.token (
    jti text primary key,
    kid text not null,
    esco uuid references flows.escos on delete cascade,
    role text not null,
    name text not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null
);
comment on table gateway.token is 'Long-lived tokens that an operator issued for a job.';
comment on column gateway.token.jti is 'Id of the token.';
comment on column gateway.token.kid is 'Key that signed it.';
comment on column gateway.token.esco is 'ESCO it speaks for.';
comment on column gateway.token.role is 'Role it has.';
comment on column gateway.token.name is 'What it is for.';
comment on column gateway.token.created_at is 'When it was issued, UTC.';
comment on column gateway.token.expires_at is 'When it expires, UTC.';

create table gateway.revoked_token (
    jti text primary key,
    expires_at timestamptz not null,
    revoked_at timestamptz not null default now()
);
comment on table gateway.revoked_token is 'Tokens that stopped working before they expired.';
comment on column gateway.revoked_token.jti is 'Id of the token.';
comment on column gateway.revoked_token.expires_at is 'When it would have expired, UTC; kept until then.';
comment on column gateway.revoked_token.revoked_at is 'When it was revoked, UTC.';

create table gateway.signing_key (
    kid text primary key,
    public_jwk jsonb not null,
    created_at timestamptz not null default now(),
    signs_from timestamptz not null default now(),
    verifies_until timestamptz
);
comment on table gateway.signing_key is 'Public halves of the keys that sign tokens.';
comment on column gateway.signing_key.kid is 'RFC 7638 thumbprint.';
comment on column gateway.signing_key.public_jwk is 'RFC 7517 public key.';
comment on column gateway.signing_key.created_at is 'When it was published, UTC.';
comment on column gateway.signing_key.signs_from is 'When it begins to sign, UTC: once every door knows it.';
comment on column gateway.signing_key.verifies_until is 'When its tokens are refused, UTC; empty while it is in use.';

create table gateway.audit (
    id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    actor text not null,
    action text not null,
    esco uuid,
    subject text,
    detail text,
    address text,
    outcome text not null
);
create index on gateway.audit (esco, id);
comment on table gateway.audit is 'Every issue, refusal, rotation, revocation and change; appended, never changed.';
comment on column gateway.audit.id is 'Number of the entry.';
comment on column gateway.audit.at is 'When, UTC.';
comment on column gateway.audit.actor is 'Who: a client''s id, or operator for the command line.';
comment on column gateway.audit.action is 'What was done.';
comment on column gateway.audit.esco is 'ESCO it concerns.';
comment on column gateway.audit.subject is 'What it was done to: id of a client, token or key, code of an ESCO.';
comment on column gateway.audit.detail is 'What exactly: scopes granted or asked for, what was changed to what.';
comment on column gateway.audit.address is 'From where.';
comment on column gateway.audit.outcome is 'done, or why it was refused.';

create function gateway.refuse_change() returns trigger
language plpgsql set search_path = ''
as $$
begin
    raise exception 'the audit is appended to, never changed' using errcode = 'insufficient_privilege';
end $$;
comment on function gateway.refuse_change() is 'Keeps the audit as it was written.';
create trigger entries_stay before update or delete or truncate on gateway.audit
for each statement execute function gateway.refuse_change();

-- The pre-request of both doors: PostgREST runs it before each request, the gateway in each of its
-- own sessions. Whoever passes has a tenant, or a role that needs none.
create function gateway.authorize() returns void
language plpgsql security definer set search_path = ''
as $$
declare
    claims jsonb := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
    uuid_form constant text := '^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$';
    tenant text := '';
    query text := nullif(current_setting('request.headers', true), '')::json ->> 'x-flows-query';
begin
    -- The gateway's name for the request, until the transaction ends: gateway.cancel_queries finds it.
    if query ~ '^[0-9a-f]{32}$' then
        perform set_config('application_name', query, true);
    end if;
    if not coalesce(claims -> 'aud' ? 'flows' or claims ->> 'aud' = 'flows', false) then
        raise sqlstate 'PT401' using message = 'The token is not meant for this service';
    end if;
    if claims ->> 'role' <> 'grafanareader' then
        if claims ->> 'role' not in ('flows', 'public_backend')
            or not coalesce(claims ->> 'esco' ~ uuid_form, false) then
            raise sqlstate 'PT403' using message = 'The token names no ESCO';
        end if;
        tenant := claims ->> 'esco';
    end if;
    if coalesce(claims ->> 'jti', '') = ''
        or exists (select from gateway.revoked_token as r where r.jti = claims ->> 'jti')
        or exists (
            select from gateway.client as c where c.id = claims ->> 'client_id'
            and (c.disabled_at is not null or c.expires_at <= now())
        )
        or (tenant <> '' and exists (select from gateway.disabled_esco as d where d.esco = tenant::uuid)) then
        raise sqlstate 'PT401' using message = 'The token is not valid any more';
    end if;
    perform set_config('app.current_esco', tenant, true);
end $$;
comment on function gateway.authorize() is 'Refuses revoked tokens and sets the ESCO of the caller.';
grant execute on function gateway.authorize() to flows, public_backend, grafanareader;

-- PostgREST lets a query run on when its client has left, so the gateway ends it. Two things keep this
-- from ending anything else: the owner may signal sessions of the login authenticator alone, and a
-- session has the name, which only the gateway knows, for no longer than that one transaction. The
-- names are read before any signal is sent: in one query the planner might signal first.
create function gateway.cancel_queries(queries text[]) returns text[]
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
is 'Cancels those of the named requests that PostgREST is at; returns which they were.';
grant execute on function gateway.cancel_queries(text[]) to flows_gateway;

create function gateway.postgrest_config() returns void
language plpgsql security definer set search_path = ''
as $$
begin
    perform set_config(
        'pgrst.jwt_secret',
        (
            select jsonb_build_object('keys', jsonb_agg(k.public_jwk))::text
            from gateway.signing_key as k where k.verifies_until is null or k.verifies_until > now()
        ),
        true
    );
end $$;
comment on function gateway.postgrest_config() is 'Hands PostgREST the keys that verify tokens.';
grant execute on function gateway.postgrest_config() to authenticator;

-- PostgREST reads its keys again, and every gateway all that makes a token valid.
create function gateway.announce() returns trigger
language plpgsql set search_path = ''
as $$
begin
    if tg_table_name = 'signing_key' then
        perform pg_catalog.pg_notify('pgrst', 'reload config');
    end if;
    perform pg_catalog.pg_notify('flows_tokens', '');
    return null;
end $$;
comment on function gateway.announce() is 'Both doors follow a change of keys, clients and revocations at once.';
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

create function gateway.engine() returns text
language sql stable security definer set search_path = ''
return flows.engine();
comment on function gateway.engine() is 'What keeps the time series: timescale or postgres.';

-- The gateway's login has no right on the data: of the ESCOs it learns and makes names alone.
create function gateway.escos() returns table (id uuid, code text, name text, disabled_at timestamptz)
language sql stable security definer set search_path = ''
begin atomic
    select e.id, e.code, e.name, d.disabled_at
    from flows.escos as e left join gateway.disabled_esco as d on e.id = d.esco
    order by e.code;
end;
comment on function gateway.escos() is 'Every ESCO, and since when it is disabled.';
create function gateway.create_esco(code text, name text) returns uuid
language sql security definer set search_path = ''
begin atomic
    insert into flows.escos (code, name) values (create_esco.code, create_esco.name) returning id;
end;
comment on function gateway.create_esco(text, text) is 'Makes an ESCO; returns its id.';
grant execute on function gateway.engine(), gateway.escos(), gateway.create_esco(text, text) to flows_gateway;

grant select, insert, update on gateway.client, gateway.signing_key to flows_gateway;
grant select, insert, delete on gateway.client_secret, gateway.disabled_esco, gateway.revoked_token to flows_gateway;
grant select, insert on gateway.token, gateway.audit to flows_gateway;

reset role;

-- migrate:down
