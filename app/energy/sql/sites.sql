-- Sites.
select
    site.id::text as site,
    site.code as site_code,
    site.name as site_name,
    esco.code as esco
from api.sites_new as site
left join api.escos as esco on site.esco = esco.id
