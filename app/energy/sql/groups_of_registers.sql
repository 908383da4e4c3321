-- A row for each mapping of the registers that a filter selects.
select {bounds}, meter::text, register::text, {by}
from ({mappings}) as mapped
where first < last and selected
order by {order}
