"""The pass-through to PostgREST."""
