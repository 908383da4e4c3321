-- The ESCOs that the caller sees.
select
    esco.code as esco,
    esco.name as esco_name,
    esco.id::text as esco_id
from api.escos as esco
