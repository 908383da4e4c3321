-- migrate:up
set local role flows_owner;

-- A week a chunk: half-hours of a thousand registers make 336,000 rows, a size that compresses well
-- and leaves a year in 53 chunks; a day a chunk would make 365.
select
    public.create_hypertable('flows.register_import', public.by_range('timestamp', interval '7 days')),
    public.create_hypertable('flows.register_export', public.by_range('timestamp', interval '7 days')),
    public.create_hypertable('flows.register_interval_hh', public.by_range('timestamp', interval '7 days'));

reset role;

-- migrate:down
