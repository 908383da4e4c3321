"""Backup and recovery: base backups, archived WAL, and any moment in between."""
