-- A signal is any integer, as deployments have it. TimescaleDB changes the type of no column that the columnstore
-- holds, so a wider one stands beside it: 0024 fills it from what is there, 0025 gives it the name.
set local role flows_owner;

alter table flows.meter_csq add column wide_csq integer;

create function flows.widen_csq() returns trigger
language plpgsql set search_path = ''
as $$
begin
    new.wide_csq := new.csq;
    return new;
end $$;
create trigger csq_is_wide before insert or update of csq on flows.meter_csq
for each row execute function flows.widen_csq();

-- A chunk, or some pages of a partition, in each transaction, so that others wait for no more than that.
create procedure flows.fill_wide_csq()
language plpgsql
as $procedure$
declare
    timescale constant boolean := exists (select from pg_catalog.pg_extension where extname = 'timescaledb');
    part record;
    missing boolean;
    pages bigint;
    batch bigint;
    page bigint;
begin
    for part in execute case
        when timescale then $query$
            select format('%I.%I', c.chunk_schema, c.chunk_name)::regclass as relation, c.is_compressed as compressed
            from timescaledb_information.chunks as c
            where c.hypertable_schema = 'flows' and c.hypertable_name = 'meter_csq'
            order by c.range_start desc
        $query$
        else $query$
            select i.inhrelid::regclass as relation, false as compressed
            from pg_catalog.pg_inherits as i where i.inhparent = 'flows.meter_csq'::regclass
            order by 1 desc
        $query$
    end loop
        execute format('select exists (select from %s where wide_csq is null and csq is not null)', part.relation)
        into missing;
        continue when not missing;
        if part.compressed then
            perform public.decompress_chunk(part.relation);
        end if;
        pages := pg_catalog.pg_relation_size(part.relation) / current_setting('block_size')::integer;
        batch := case when part.compressed then pages else 1000 end;
        page := 0;
        -- A row that is changed goes to the end: the pages that were there hold what is left.
        while page < pages loop
            execute format(
                'update %s set wide_csq = csq where wide_csq is null and csq is not null and ctid >= $1 and ctid < $2',
                part.relation
            ) using format('(%s,0)', page)::tid, format('(%s,0)', page + batch)::tid;
            page := page + batch;
            if not part.compressed then
                commit;
            end if;
        end loop;
        if part.compressed then
            perform public.compress_chunk(part.relation);
            commit;
        end if;
    end loop;
end $procedure$;

reset role;
