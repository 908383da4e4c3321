-- People sign in at an identity provider that the operator trusts, through an app that is registered, and
-- get a token for an ESCO that they are a member of.
set local role flows_owner;

create table gateway.issuer (
    id uuid primary key default gen_random_uuid(),
    url text not null unique check (url ~ '^https?://[^[:space:]]+$' and length(url) <= 500),
    audiences text[] not null check (audiences <> '{}'),
    esco uuid references flows.escos on delete cascade,
    claims jsonb not null default '{}' check (jsonb_typeof(claims) = 'object'),
    jwks_uri text check (jwks_uri ~ '^https?://[^[:space:]]+$' and length(jwks_uri) <= 500),
    secret_name text,
    created_at timestamptz not null default now(),
    removed_at timestamptz,
    check (jwks_uri is null or secret_name is null)
);
create index on gateway.issuer (esco);

create table gateway.member (
    id text primary key check (id ~ '^flm_[0-9a-f]{16}$'),
    issuer uuid not null references gateway.issuer on delete cascade,
    subject text check (length(subject) between 1 and 255),
    email text check (length(email) between 3 and 254),
    esco uuid references flows.escos on delete cascade,
    name text not null check (length(name) between 1 and 200),
    scopes text[] not null check (scopes <@ array['read', 'write', 'admin'] and scopes <> '{}'),
    invitation bytea unique check (length(invitation) = 32),
    invited_until timestamptz,
    created_at timestamptz not null default now(),
    last_used_at timestamptz,
    disabled_at timestamptz,
    check ((subject is null) = (invitation is not null)),
    check (invitation is null or (email is not null and invited_until is not null))
);
create unique index member_subject_key on gateway.member
(issuer, subject, coalesce(esco, '00000000-0000-0000-0000-000000000000')) where subject is not null;
create index on gateway.member (esco);
create index on gateway.member (disabled_at) where disabled_at is not null;

create table gateway.app (
    id text primary key check (id ~ '^fla_[0-9a-f]{16}$'),
    name text not null check (length(name) between 1 and 200),
    origins text[] not null check (origins <> '{}'),
    esco uuid references flows.escos on delete cascade,
    created_at timestamptz not null default now(),
    disabled_at timestamptz
);
create index on gateway.app (esco);

reset role;
