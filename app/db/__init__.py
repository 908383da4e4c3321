"""PostgreSQL: the pool and its sessions, migrations, copy, upkeep, status."""
