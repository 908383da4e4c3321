"""The `/v1` API: reports over half-hourly energy, and the SQL behind them."""
