"""The names of time series and aggregates, read from the single list of them."""

import re

from app.db.schema import SQL

ROW = re.compile(r"^ +'(\w+)', '(register_id|meter_id|circuit_id)', ", re.MULTILINE)
KEYS = dict(ROW.findall((SQL / "objects" / "045_series.sql").read_text()))
AGGREGATES = {name for name, key in KEYS.items() if key == "circuit_id"}
TIME_SERIES = KEYS.keys() - AGGREGATES
