set local role flows_owner;

-- Times of configuration and state lie in the calendar of every client: what lasts for ever has no end. Infinity would
-- reach what counts in days, the following of changes and reports, where others wait behind it.
do $$
declare
    found record;
begin
    for found in
        select c.relname as name, a.attname as attribute
        from pg_catalog.pg_class as c
        inner join pg_catalog.pg_attribute as a on c.oid = a.attrelid
        where c.relnamespace = 'flows'::regnamespace
            and a.attnum > 0 and not a.attisdropped
            and a.atttypid = 'timestamptz'::regtype
            and c.relname in (
                'sites_new', 'properties', 'feeder_registry', 'service_head_registry', 'meter_registry',
                'meter_registers', 'meter_tophat_registry', 'meter_shadows', 'circuits', 'ev_chargers',
                'circuit_register', 'service_head_meter', 'properties_service_head'
            )
        order by 1, a.attnum
    loop
        execute format(
            'create trigger %1$I before insert or update of %2$I on flows.%3$I for each row '
            'when (new.%2$I not between ''0001-01-02Z'' and ''9999-12-30Z'' and not flows.sees_every_esco()) '
            'execute function flows.refuse_value(%2$L, %4$L)',
            'bounds_of_' || found.attribute, found.attribute, found.name,
            'must be a time of the years 1 to 9999; leave out the end of what has none'
        );
    end loop;
end $$;

reset role;
