"""The embedded stack: PostgreSQL, PostgREST and the gateway as child processes."""
