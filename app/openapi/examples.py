"""Realistic example values, chosen by a column's name or else by its type."""

from typing import Any

BY_NAME: dict[str, Any] = {
    "serial": "EML2137580826",
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
}
UUID = "3f0f5a1e-7c2b-4d0e-9a53-5b7d3c1e8f20"
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


def value(name: str, schema: dict[str, Any]) -> Any:
    """Return an example of the schema that suits a column with this name."""
    if "enum" in schema:
        return schema["enum"][0]
    if "pattern" in schema:
        return "empty"
    if "examples" in schema:
        return schema["examples"][0]
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "array":
        return [value(name, schema["items"])]
    by_name = BY_NAME.get(name)
    fits = {"string": str, "integer": int, "number": int | float}.get(str(kind))
    if fits and isinstance(by_name, fits) and schema.get("format") not in ("uuid", "date"):
        return by_name
    return BY_FORMAT.get(schema.get("format", ""), BY_TYPE.get(str(kind), {}))
