"""Ids in the document's examples, each of which stands for one that exists for its reader.

app/openapi/samples.py puts the caller's own in their place.
"""

CIRCUIT_ID = "c17c0175-7c2b-4d0e-9a53-5b7d3c1e8f20"
REGISTER_ID = "4e915fe4-7c2b-4d0e-9a53-5b7d3c1e8f20"
METER_ID = "3e7e4000-7c2b-4d0e-9a53-5b7d3c1e8f20"
PROPERTY_ID = "940be479-7c2b-4d0e-9a53-5b7d3c1e8f20"
SITE_ID = "517e0000-7c2b-4d0e-9a53-5b7d3c1e8f20"
ESCO_ID = "e5c00000-7c2b-4d0e-9a53-5b7d3c1e8f20"
# Of meters, which are named by it.
METER_SERIAL = "EML2137580826"
