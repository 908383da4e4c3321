-- A row for each mapping, selected or not.
select circuit::text, register::text, meter::text, date_part('epoch', start_time), {bounds}, selected, {by}
from ({mappings}) as mapped
where first < last
