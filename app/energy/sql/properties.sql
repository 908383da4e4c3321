-- Properties and their sites.
select
    property.id::text as property,
    property.plot as property_plot,
    property.site::text as site,
    site.code as site_code,
    esco.code as esco
from api.properties as property
left join api.sites_new as site on property.site = site.id
left join api.escos as esco on site.esco = esco.id
