-- Mappings of a group over the same half-hours, put together: the number of their meters and registers, and
-- their circuits. A meter whose mappings differ, or which may have a register in several (one of two registers
-- has not), has a row for each, with its id and the register's. PostgreSQL has no least id: hashes of 64 bits cost a
-- third of texts.
with mapped as materialized (
    {mappings}
), meters as (
    select
        {by}, meter, min(first) as first, max(last) as last, count(*) as registers,
        min(first) = max(first) and min(last) = max(last)
        and (count(*) = 1 or count(*) = 2 and min(uuid_hash_extended(register, 0)) < max(uuid_hash_extended(register, 0))) as alike,
        {apart} as apart, {circuits} as circuits
    from mapped
    where first < last
    group by {by}, meter
)
select {bounds}, meters, registers, meter, register, circuits, apart, {by}
from (
    select
        first, last, count(*) as meters, sum(registers)::bigint as registers, null as meter, null as register,
        {together} as circuits, bool_and(apart) as apart, {by}
    from meters
    where alike
    group by {by}, first, last
    union all
    select
        mapped.first, mapped.last, 1, 1, mapped.meter::text, register::text, {alone}, apart, {mapped_by}
    from meters
    inner join mapped using (meter)
    where mapped.first < mapped.last and not alike
        and row({mapped_by}) is not distinct from row({meters_by})
) as span
order by {order}
