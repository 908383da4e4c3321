"""Realistic example values, chosen by a column's or a member's name or else by its type."""

from typing import Any

from app import example_ids

BY_NAME: dict[str, Any] = {
    # Columns of /rest/v1.
    "serial": example_ids.METER_SERIAL,
    "name": "Plot 7",
    "code": "wlce",
    "plot": "7",
    "address": "7 Lily Lane, Bristol",
    "substation": "Lockleaze Road",
    "location": "Bristol",
    "region": "south-west",
    "hardware": "EM4 v2",
    "firmware_version": "4.2.0",
    "iccid": "8988303000012345678",
    "emnify_id": 12345678,
    "commissioned_iso_week_date": "2026-W12-4",
    "app_url": "https://app.example.org",
    "notes": "Replaced after a fault",
    "import_kwh": 0.214,
    "export_kwh": 0.0,
    "total_import_kwh": 0.214,
    "total_export_kwh": 0.0,
    "kwh": 0.214,
    "read": 10482.37,
    "balance": 12.5,
    "emergency_credit": 15.0,
    "voltage": 241.3,
    "csq": 21,
    "phase": 1,
    "fuse_rating": 60,
    "rating_amps": 400,
    "capacity_kw": 250,
    "backlight": "on",
    "load_switch": "closed",
    "start_time": "2026-11-01T00:00:00Z",
    "end_time": "2026-12-01T00:00:00Z",
    "period_from": "2026-11-01T00:00:00Z",
    "period_to": "2026-11-02T00:00:00Z",
    # Parameters of /v1.
    "timezone": "Europe/London",
    "updated_since": "2026-11-02T00:04:11Z",
    "changes": "q6hYwB1n0cVtZ3kXo9Tg",
    "cursor": "WyIyMDI2LTExLTAxIl0",
    "limit": 1000,
    "meter": example_ids.METER_SERIAL,
    "feeder": "Feeder 2",
    "site": "lily-lane",
    "code_or_id": "lily-lane",
    "esco": "wlce",
    "esco_code": "wlce",
    # /v1/imports.
    "file_name": "readings.csv",
    "size": 65,
    "rows_read": 2,
    "error": "line 2: the time is no time",
    "import_column": "use",
    # /auth and /admin.
    "access_token": "eyJhbGciOiJSUzI1NiIsInR5cCI6ImF0K2p3dCIsImtpZCI6IjEifQ.e30.c2ln",
    "token": "eyJhbGciOiJSUzI1NiIsInR5cCI6ImF0K2p3dCIsImtpZCI6IjEifQ.e30.c2ln",
    "grant_type": "client_credentials",
    "client_id": "flc_3b1f0c9a7d52",
    "member_id": "flm_3b1f0c9a7d52",
    "app_id": "fla_3b1f0c9a7d52",
    "client_secret": "fls_2f7c9d1e5b8a4c6f",
    "lifetime_seconds": 3600,
    "scopes": ["read"],
    "actor": "flc_3b1f0c9a7d52",
    "action": "token.issued",
    "subject": "flc_3b1f0c9a7d52",
    "outcome": "ok",
    "before": 1042,
    "after": "flm_3b1f0c9a7d52",
    "calls": 4211,
    "rows": 91_204,
    "bytes": 7_340_032,
    "received": 48_211,
    "url": "https://login.example.org/realms/a",
    "issuer": "https://login.example.org/realms/a",
    "id": "flc_3b1f0c9a7d52",
    "jwks_uri": "https://gateway.example.org/.well-known/jwks.json",
    "token_endpoint": "https://gateway.example.org/auth/token",
    "response_types_supported": ["none"],
    "grant_types_supported": ["client_credentials"],
    "scopes_supported": ["read", "write", "admin"],
    "audiences": ["flows"],
    "secret_name": "LOGIN_EXAMPLE_ORG",
    "email": "lily@example.org",
    "origins": ["https://app.example.org"],
    "invitation": "K7QF-2M9D",
    "kid": "2026-11",
    "n": "u1SU1LfVLPHCozMxH2Mo4lgOEePzNm0tRgeLezV6ffAt0gunVTLw7onLRnrq0_IzW7yWR7QkrmBL7jTKEn5u",
    "e": "AQAB",
}
UUID = "3f0f5a1e-7c2b-4d0e-9a53-5b7d3c1e8f20"
# Name of a column with ids → what it refers to.
REFERS = {
    "circuit": example_ids.CIRCUIT_ID, "circuit_id": example_ids.CIRCUIT_ID,
    "register": example_ids.REGISTER_ID, "register_id": example_ids.REGISTER_ID,
    "meter": example_ids.METER_ID, "meter_id": example_ids.METER_ID,
    "property": example_ids.PROPERTY_ID, "property_id": example_ids.PROPERTY_ID,
    "site": example_ids.SITE_ID, "site_id": example_ids.SITE_ID,
    "esco": example_ids.ESCO_ID, "esco_id": example_ids.ESCO_ID,
}  # fmt: skip
# Relation → what its column `id` is.
IDENTIFIES = {
    "circuits": example_ids.CIRCUIT_ID, "meter_registry": example_ids.METER_ID,
    "properties": example_ids.PROPERTY_ID, "sites_new": example_ids.SITE_ID,
    "escos": example_ids.ESCO_ID,
}  # fmt: skip
BY_FORMAT: dict[str, Any] = {
    "uuid": UUID,
    "date-time": "2026-11-01T00:00:00Z",
    "date": "2026-11-01",
}
BY_TYPE: dict[str, Any] = {
    "string": "text",
    "integer": 1,
    "number": 1.5,
    "boolean": True,
    "array": [],
}


def value(name: str, schema: dict[str, Any], relation: str = "") -> Any:
    """Return an example of the schema that suits a column, of a relation, with this name."""
    if "enum" in schema:
        return schema["enum"][0]
    if "pattern" in schema:
        return "empty"
    if "examples" in schema:
        return schema["examples"][0]
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "array":
        return [value(name, schema["items"], relation)]
    if schema.get("format") == "uuid":
        return (IDENTIFIES.get(relation) if name == "id" else REFERS.get(name)) or UUID
    by_name = BY_NAME.get(name)
    fits = {"string": str, "integer": int, "number": int | float}.get(str(kind))
    if fits and isinstance(by_name, fits) and schema.get("format") != "date":
        return by_name
    return BY_FORMAT.get(schema.get("format", ""), BY_TYPE.get(str(kind), {}))


def whole(schema: dict[str, Any], schemas: dict[str, Any], name: str = "") -> Any:
    """Return an example of a body, with its required members, or all of them if none is.

    Members that have an example of their own are shown as well. `schemas` are those that it may
    refer to, by name.
    """
    if "$ref" in schema:
        return whole(schemas[schema["$ref"].rpartition("/")[2]], schemas, name)
    for told in ("examples", "enum"):
        if schema.get(told):
            return schema[told][0]
    if "const" in schema:
        return schema["const"]
    for some in ("anyOf", "oneOf", "allOf"):
        if some in schema:
            return whole(schema[some][0], schemas, name)
    if isinstance(BY_NAME.get(name), list) and schema.get("type") == "array":
        return BY_NAME[name]
    if schema.get("type") == "array":
        return [whole(schema["items"], schemas, name)]
    if members := schema.get("properties"):
        needed = set(schema.get("required", members))
        return {
            member: whole(of, schemas, member)
            for member, of in members.items()
            if member in needed or "examples" in of
        }
    return value(name, {key: of for key, of in schema.items() if key != "pattern"})
