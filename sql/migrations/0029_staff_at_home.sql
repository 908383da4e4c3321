-- One of an ESCO's staff may live in one of its homes, and is a resident besides.
set local role flows_owner;

drop index gateway.member_subject_key;
create unique index member_subject_key on gateway.member
(issuer, subject, coalesce(esco, '00000000-0000-0000-0000-000000000000'), resident) where subject is not null;

reset role;
