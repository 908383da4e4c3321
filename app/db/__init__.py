"""PostgreSQL: connection pool and sessions, migration, copy, maintenance, status."""
