-- A row for each mapping, selected or not.
select circuit::text, register::text, meter::text, began, {bounds}, selected, {by}
from ({mappings}) as mapped
where first < last
