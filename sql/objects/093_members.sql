set local role flows_owner;

comment on table gateway.issuer is 'OpenID providers that vouch for people.';
comment on column gateway.issuer.id is 'Id of the issuer.';
comment on column gateway.issuer.url is 'URL, exactly as its tokens name it in iss.';
comment on column gateway.issuer.audiences is 'Audiences of the tokens that are accepted: one must be in aud.';
comment on column gateway.issuer.esco is 'The only ESCO that it may have members of; empty for any.';
comment on column gateway.issuer.claims is 'Claims that its tokens must have, with their values.';
comment on column gateway.issuer.jwks_uri is 'URL of its keys; empty if it is read from its discovery document.';
comment on column gateway.issuer.secret_name
is 'Name of the secret that signs its tokens by HS256; empty where keys do.';
comment on column gateway.issuer.created_at is 'Time at which it was registered, UTC.';
comment on column gateway.issuer.removed_at is 'Time since which it is not trusted, UTC.';
comment on table gateway.member is 'People who may act for an ESCO; one row for each person and ESCO.';
comment on column gateway.member.id is 'Id of the member, the sub of its tokens.';
comment on column gateway.member.issuer is 'Issuer that vouches for the person.';
comment on column gateway.member.subject is 'The person''s sub at the issuer; empty until an invitation is accepted.';
comment on column gateway.member.email is 'E-mail address that was invited.';
comment on column gateway.member.esco is 'ESCO that the person acts for; empty for support, which acts for members.';
comment on column gateway.member.name is 'Name of the person.';
comment on column gateway.member.scopes is 'Scopes that its tokens may have: read, write, admin.';
comment on column gateway.member.invitation is 'SHA-256 of the open invitation''s code.';
comment on column gateway.member.invited_until is 'Time until which the invitation can be accepted, UTC.';
comment on column gateway.member.created_at is 'Time at which it was added, UTC.';
comment on column gateway.member.last_used_at is 'Time at which it last got a token, UTC.';
comment on column gateway.member.disabled_at is 'Time at which it was disabled, UTC.';
comment on column gateway.member.resident
is 'True for a resident, who reads what belongs to its own homes alone.';
comment on table gateway.residence is 'Homes of residents, each for the time that the person lives there.';
comment on column gateway.residence.member is 'The resident.';
comment on column gateway.residence.property is 'The property.';
comment on column gateway.residence.esco is 'ESCO of both.';
comment on column gateway.residence.start_time is 'Time at which the person moved in, inclusive, UTC.';
comment on column gateway.residence.end_time
is 'Time at which the person moved out, exclusive, UTC; empty while the person lives there.';
comment on column gateway.residence.created_at is 'Time at which it was added, UTC.';
comment on table gateway.app is 'Public clients: apps in browsers, which have no secret and exchange tokens of people.';
comment on column gateway.app.id is 'Client id.';
comment on column gateway.app.name is 'Name of the app, for people.';
comment on column gateway.app.origins is 'Origins of its pages.';
comment on column gateway.app.esco is 'The only ESCO that it gets tokens for; empty for any.';
comment on column gateway.app.created_at is 'Time at which it was registered, UTC.';
comment on column gateway.app.disabled_at is 'Time at which it was disabled, UTC.';

create trigger changes_are_announced after update of disabled_at on gateway.member
for each statement execute function gateway.announce();
create trigger changes_are_announced after update of disabled_at on gateway.app
for each statement execute function gateway.announce();
create trigger changes_are_announced after insert or update or delete on gateway.residence
for each statement execute function gateway.announce();

grant select, insert, update on gateway.issuer, gateway.member, gateway.app to flows_gateway;
grant select, insert, update, delete on gateway.residence to flows_gateway;

reset role;
