-- Removed half-hours wait here for the end of their statement, since no trigger on a hypertable gets a
-- transition table on DELETE. A statement takes its rows away again, so a crash loses nothing.
set local role flows_owner;

create unlogged table flows.removed_half_hour (
    transaction xid8 not null,
    register_id uuid not null,
    day timestamptz not null,
    starts timestamptz not null,
    ends timestamptz not null,
    primary key (transaction, register_id, day)
);

reset role;
