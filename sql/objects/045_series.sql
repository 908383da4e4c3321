set local role flows_owner;

-- The one list of time series and aggregates. Hypertables and partitions, the views of api with their
-- grants, comments, retention, `flows db copy` and the tests follow it: a new series is a table (a
-- file in sql/migrations) and a row here.
--   key         whose it is: a register_id, meter_id or circuit_id
--   label       the column of time
--   chunk, sort how the engine keeps it, from when it is made (TimescaleDB; PostgreSQL goes by the year)
--   keep, columnstore_after
--               what flows.retention begins with; a deployment's own settings stay
-- A week a chunk, not a day: half-hours of 2,000 registers make 672,000 rows a week, which the
-- columnstore keeps in batches of 1,000 of one register; a day of them would fill such a batch with 48
-- rows, and leave seven times the chunks to plan over. Slow series get a month. Half-hours and what is
-- summed from them are the community's books and are kept.
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
                "timestamp": "When it was read, UTC.",
                "read": "Energy imported since the register began to count, kWh."
            }'
        ),
        (
            'register_export', 'register_id', 'timestamp', '7 days', '"timestamp" desc', '2 years', '7 days',
            'Readings of a register''s export counter.',
            '{
                "register_id": "Register that was read.",
                "timestamp": "When it was read, UTC.",
                "read": "Energy exported since the register began to count, kWh."
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
                "derived":
                "Whether it was calculated from counter readings; a measured half-hour takes its place."
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
            '{"csq": "Signal quality, 0 (none) to 31 (best)."}'
        ),
        (
            'meter_health_history', 'meter_id', 'timestamp', '30 days', '"timestamp" desc', '2 years', '7 days',
            'When meters became healthy or unhealthy.',
            '{"health": "healthy or unhealthy.", "reason": "Why."}'
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
                "event_type": "Kind of the event, as meter_event_log_type numbers it.",
                "event_set": "Set the event belongs to."
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
comment on function flows.series() is 'Every time series and aggregate, and what follows from being one.';

reset role;
