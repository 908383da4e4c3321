-- migrate:up
set local role flows_owner;

create table gateway.client (
    id text primary key,
    esco uuid references flows.escos,
    name text not null,
    role text not null check (role in ('flows', 'public_backend', 'grafanareader')),
    scopes text[] not null,
    secret_hash text not null,
    created_at timestamptz not null default now(),
    disabled_at timestamptz,
    check ((esco is null) = (role = 'grafanareader'))
);
comment on table gateway.client is 'Machines that may ask for tokens: one ESCO each, or none for monitoring.';

create table gateway.signing_key (
    kid text primary key,
    public_jwk jsonb not null,
    created_at timestamptz not null default now(),
    retired_at timestamptz
);
comment on table gateway.signing_key is 'Public halves of the keys that sign tokens.';

create table gateway.revoked_token (
    jti text primary key,
    revoked_at timestamptz not null default now()
);
comment on table gateway.revoked_token is 'Tokens that stopped working before they expired.';

-- The pre-request of both doors: PostgREST runs it before each request, the gateway in each of its
-- own sessions. Whoever passes has a tenant, or a role that needs none.
create function gateway.authorize() returns void
language plpgsql security definer set search_path = ''
as $$
declare
    claims jsonb := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
    uuid_form constant text := '^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$';
begin
    if not coalesce(claims -> 'aud' ? 'flows' or claims ->> 'aud' = 'flows', false) then
        raise sqlstate 'PT401' using message = 'The token is not meant for this service';
    end if;
    if coalesce(claims ->> 'jti', '') = ''
        or exists (select from gateway.revoked_token as r where r.jti = claims ->> 'jti') then
        raise sqlstate 'PT401' using message = 'The token is not valid any more';
    end if;
    if claims ->> 'role' = 'grafanareader' then
        perform set_config('app.current_esco', '', true);
        return;
    end if;
    if claims ->> 'role' not in ('flows', 'public_backend')
        or not coalesce(claims ->> 'esco' ~ uuid_form, false) then
        raise sqlstate 'PT403' using message = 'The token names no ESCO';
    end if;
    perform set_config('app.current_esco', claims ->> 'esco', true);
end $$;
comment on function gateway.authorize() is 'Refuses revoked tokens and sets the ESCO of the caller.';
grant execute on function gateway.authorize() to flows, public_backend, grafanareader;

create function gateway.postgrest_config() returns void
language plpgsql security definer set search_path = ''
as $$
begin
    perform set_config(
        'pgrst.jwt_secret',
        (select jsonb_build_object('keys', jsonb_agg(k.public_jwk))::text
         from gateway.signing_key as k where k.retired_at is null),
        true
    );
end $$;
comment on function gateway.postgrest_config() is 'Hands PostgREST the keys that verify tokens.';
grant execute on function gateway.postgrest_config() to authenticator;

create function gateway.announce_keys() returns trigger
language plpgsql set search_path = ''
as $$
begin
    perform pg_catalog.pg_notify('pgrst', 'reload config');
    return null;
end $$;
comment on function gateway.announce_keys() is 'PostgREST follows a change of keys without a restart.';
create trigger keys_are_announced after insert or update on gateway.signing_key
for each statement execute function gateway.announce_keys();

create function gateway.engine() returns text
language sql stable security definer set search_path = ''
return flows.engine();
comment on function gateway.engine() is 'What keeps the time series: timescale or postgres.';
create function gateway.esco_code(esco uuid) returns text
language sql stable security definer set search_path = ''
return (select e.code from flows.escos as e where e.id = esco);
comment on function gateway.esco_code(uuid) is 'The short name of an ESCO, for its tokens.';
grant execute on function gateway.engine(), gateway.esco_code(uuid) to flows_gateway;
grant select on gateway.client to flows_gateway;
grant select, insert on gateway.signing_key, gateway.revoked_token to flows_gateway;
grant update (retired_at) on gateway.signing_key to flows_gateway;

reset role;

-- migrate:down
