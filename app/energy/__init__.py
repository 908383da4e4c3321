"""Aggregates of half-hourly energy."""
