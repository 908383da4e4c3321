set local role flows_owner;

-- The one list of time series and aggregates. Hypertables and partitions, the views of api with their
-- grants, comments, retention, `flows db copy` and the tests are derived from it: to add a series,
-- add a table (a file in sql/migrations) and a row here.
--   key         column of the owner: register_id, meter_id or circuit_id
--   label       column of the time
--   chunk, sort length of chunks and order of rows, set at creation (TimescaleDB; PostgreSQL
--               partitions by year)
--   keep, columnstore_after
--               initial values of flows.retention; a deployment's own settings are not overwritten
-- A chunk holds a week, not a day: 2,000 registers have 672,000 half-hours a week, which the
-- columnstore keeps in batches of 1,000 rows of one register. With a chunk per day a batch would have
-- 48 rows, and the planner seven times as many chunks. Slow series get a chunk per month. Half-hours
-- and the sums of them are the community's accounts and are kept forever.
create or replace function flows.series() returns table (
    name text, key text, label text, chunk interval, sort text, keep interval, columnstore_after interval,
    description text, columns jsonb
)
language sql stable set search_path = ''
as $$
    select
        s.name, s.key, s.label, s.chunk::interval, s.sort, s.keep::interval, s.columnstore_after::interval,
        s.description, s.columns::jsonb
    from (values
        (
            'register_import', 'register_id', 'timestamp', '7 days', '"timestamp" desc', '2 years', '7 days',
            'Readings of a register''s import counter.',
            '{
                "register_id": "Register that was read.",
                "timestamp": "Time of the reading, UTC.",
                "read": "Energy imported since the register began to count, kWh; empty where the reading failed."
            }'
        ),
        (
            'register_export', 'register_id', 'timestamp', '7 days', '"timestamp" desc', '2 years', '7 days',
            'Readings of a register''s export counter.',
            '{
                "register_id": "Register that was read.",
                "timestamp": "Time of the reading, UTC.",
                "read": "Energy exported since the register began to count, kWh; empty where the reading failed."
            }'
        ),
        (
            'register_interval_hh', 'register_id', 'timestamp', '7 days', '"timestamp" desc', null, '7 days',
            'Energy of each half-hour, by register.',
            '{
                "register_id": "Register that metered it.",
                "timestamp": "Start of the half-hour, UTC, on :00 or :30.",
                "import_kwh": "Energy imported in the half-hour, kWh; empty where unknown.",
                "export_kwh": "Energy exported in the half-hour, kWh; empty where unknown.",
                "kwh":
                "Energy of the half-hour as one figure, the sum of both, kWh; kept for compatibility.",
                "derived":
                "True if calculated from counter readings, or imported as an estimate; a measured half-hour replaces it."
            }'
        ),
        (
            'meter_voltage', 'meter_id', 'timestamp', '30 days', '"timestamp" desc', '2 years', '7 days',
            'Voltage at single-phase meters.',
            '{"voltage": "Voltage, V."}'
        ),
        (
            'meter_3p_voltage', 'meter_id', 'timestamp', '30 days', '"timestamp" desc', '2 years', '7 days',
            'Voltages at three-phase meters.',
            '{
                "voltage_l1": "Voltage of phase L1, V.",
                "voltage_l2": "Voltage of phase L2, V.",
                "voltage_l3": "Voltage of phase L3, V."
            }'
        ),
        (
            'meter_csq', 'meter_id', 'timestamp', '30 days', '"timestamp" desc', '2 years', '7 days',
            'Quality of the mobile signal at meters.',
            '{
                "csq": "Signal quality, 0 (none) to 31 (best); 99 or less than 0 if unknown.",
                "narrow_csq": "The signal as it was stored before it could be any integer; unused since."
            }'
        ),
        (
            'meter_health_history', 'meter_id', 'timestamp', '30 days', '"timestamp" desc', '2 years', '7 days',
            'Changes of the health of meters.',
            '{"health": "New health: healthy or unhealthy.", "reason": "Reason of the change."}'
        ),
        (
            'meter_prepay_balance', 'meter_id', 'timestamp', '30 days', '"timestamp" desc', '2 years', '7 days',
            'Prepayment balance of meters over time.',
            '{
                "balance": "Credit left, pounds; negative when emergency credit is in use.",
                "emergency_credit": "Emergency credit, pounds."
            }'
        ),
        (
            'meter_event_log', 'meter_id', 'timestamp', '30 days', '"timestamp" desc, event_type', '90 days', '7 days',
            'Events that meters logged.',
            '{
                "event_type": "Kind of the event: an id in meter_event_log_type.",
                "event_set": "Set that the event belongs to."
            }'
        ),
        (
            'circuit_interval_hh', 'circuit_id', 'timestamp', null, null, null, '40 days',
            'Energy of each half-hour, by circuit.', null
        ),
        (
            'circuit_interval_daily', 'circuit_id', 'day', null, null, null, null,
            'Energy of each UTC day, by circuit.', null
        ),
        (
            'circuit_interval_daily_london', 'circuit_id', 'day', null, null, null, null,
            'Energy of each day of Europe/London, by circuit.', null
        ),
        (
            'circuit_interval_monthly', 'circuit_id', 'month', null, null, null, null,
            'Energy of each UTC month, by circuit.', null
        )
    ) as s (name, key, label, chunk, sort, keep, columnstore_after, description, columns)
$$;
comment on function flows.series() is 'All time series and aggregates, with their storage, retention and comments.';

-- An aggregate is shown by a view that adds to what is stored.
create or replace function flows.stored_name(series text) returns text
language sql immutable parallel safe set search_path = ''
return replace(series, 'circuit_interval_', 'circuit_sums_');
comment on function flows.stored_name(text) is 'Name of the relation of schema flows that stores a series.';

create or replace function flows.unit_of(series text, out unit interval, out zone text)
language sql immutable parallel safe set search_path = ''
begin atomic
    select
        case
            when series in ('register_interval_hh', 'circuit_interval_hh') then interval '30 minutes'
            when series like 'circuit\_interval\_daily%' then interval '1 day'
            when series = 'circuit_interval_monthly' then interval '1 month'
        end,
        case when series like '%\_london' then 'Europe/London' else 'UTC' end;
end;
comment on function flows.unit_of(text)
is 'Length of a series'' intervals, and the zone of its days; no length of what has a moment.';

reset role;
