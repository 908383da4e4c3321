"""An answer of each report as an example, in every format that is text."""

from typing import Any, get_args

import orjson
from pydantic import BaseModel

from app import example_ids
from app.energy.formats import MEDIA_TYPES
from app.energy.models import Keys
from app.energy.parameters import FormatName
from app.energy.writers import INTERVAL

# Member of an answer → value; those of one answer fit together.
SHOWN: dict[str, Any] = {
    "timezone": "Europe/London",
    "period_from": "2026-11-01T00:00:00Z",
    "period_to": "2026-11-02T00:00:00Z",
    "available_from": "2026-01-01T00:00:00Z",
    "available_to": "2026-11-02T00:00:00Z",
    "data_as_of": "2026-11-02T00:04:11Z",
    "granularity": "P1D",
    "group_by": ["circuit"],
    "direction": "import",
    "next": "WyIyMDI2LTExLTAxIl0",
    "next_changes": "q6hYwB1n0cVtZ3kXo9Tg",
    # Keys and names.
    "circuit": example_ids.CIRCUIT_ID,
    "circuit_name": "Plot 7, power",
    "circuit_type": "power",
    "register": example_ids.REGISTER_ID,
    "meter": example_ids.METER_SERIAL,
    "meter_id": example_ids.METER_ID,
    "meter_name": "Plot 7",
    "name": "Plot 7",
    "property": example_ids.PROPERTY_ID,
    "property_plot": "7",
    "properties": "7",
    "site": example_ids.SITE_ID,
    "site_code": "lily-lane",
    "site_name": "Lily Lane",
    "esco": "wlce",
    "esco_id": example_ids.ESCO_ID,
    "esco_name": "Water Lilies Community Energy",
    # Intervals and what is known of them.
    "interval_start": "2026-11-01T00:00:00+00:00",
    "interval_end": "2026-11-02T00:00:00+00:00",
    "partial": False,
    "expected_intervals": 48,
    "present_intervals": 46,
    "derived_intervals": 0,
    "complete_intervals": 46,
    "missing_intervals": 2,
    "share_present": 0.9583333333333334,
    "complete": False,
    "meters_expected": 1,
    "meters_reporting": 1,
    "registers_reporting": 1,
    "start": "2026-11-01T02:00:00+00:00",
    "end": "2026-11-01T03:00:00+00:00",
    # Energy.
    "import_kwh": 9.84,
    "export_kwh": 0.0,
    "generation_kwh": 4.0,
    "consumption_kwh": 8.0,
    "self_consumption_kwh": 3.0,
    "from_grid_kwh": 5.0,
    "to_grid_kwh": 1.0,
    "self_consumption_ratio": 0.75,
    "self_sufficiency_ratio": 0.375,
    "days": "all",
    "time": "18:30",
    "mean_import_kwh": 0.214,
    "p10_import_kwh": 0.08,
    "p50_import_kwh": 0.19,
    "p90_import_kwh": 0.41,
    "mean_export_kwh": 0.02,
    "p10_export_kwh": 0.0,
    "p50_export_kwh": 0.0,
    "p90_export_kwh": 0.07,
    "rank": 1,
    "import_kw": 5.2,
    "export_kw": 0.0,
    # State.
    "health": "healthy",
    "balance": 12.5,
    "emergency_credit": 15.0,
    "balance_updated_at": "2026-11-01T23:47:02+00:00",
    "last_healthy_at": "2026-11-01T23:51:40+00:00",
    "state_updated_at": "2026-11-01T23:51:40+00:00",
    "import_a_kwh": 10482.37,
    "import_b_kwh": 311.9,
    "export_a_kwh": 0.0,
    "export_b_kwh": 0.0,
    "alert": "low_balance",
    "since": "2026-11-01T06:30:00+00:00",
    "clock_seconds": 75.0,
}


def answers(body: type[BaseModel]) -> dict[str, dict[str, Any]]:
    """Return media type → example of an answer with this body, of one row.

    They are what app/energy/writers.py writes, without its library, whose threads must not exist
    before processes fork.
    """
    example = _example(body)
    members = {name: value for name, value in example.items() if name != "rows"}
    (row,) = example["rows"]
    texts: dict[FormatName, Any] = {
        "json": example,
        "csv": f"{','.join(row)}\r\n{','.join(map(_cell, row.values()))}\r\n",
        "ndjson": f"{orjson.dumps(row).decode()}\n",
        "columns": members | _columns(row, grouped="granularity" in members),
    }
    return {MEDIA_TYPES[name]: {"example": text} for name, text in texts.items()}


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return '"' + text.replace('"', '""') + '"' if '"' in text or "," in text else text


def _columns(row: dict[str, Any], *, grouped: bool) -> dict[str, Any]:
    if not grouped:
        return {"columns": {name: [value] for name, value in row.items()}}
    times = {name: [row[name]] for name in INTERVAL}
    group = {
        name: value if name in Keys.model_fields else [value]
        for name, value in row.items()
        if name not in times
    }
    return {"intervals": times, "groups": [group]}


def _example(model: type[BaseModel]) -> dict[str, Any]:
    """Return the members that an answer always has, and the key that rows usually have."""
    found = {}
    for field_name, field in model.model_fields.items():
        name = field.alias or field_name
        if field.is_required() or name == "circuit":
            inner = next((one for one in get_args(field.annotation) if _is_model(one)), None)
            found[name] = [_example(inner)] if inner else SHOWN[name]
    return found


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
