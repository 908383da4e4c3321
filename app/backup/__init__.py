"""Backup, and recovery to any point in time, from base backups and archived WAL."""
