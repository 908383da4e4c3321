"""Examination of a whole deployment: settings, database, services, backups."""
