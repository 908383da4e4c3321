"""Copying the rows of a Flows database as deployed into a newly migrated one."""

from app.db.copy.database import copy_database, parse_kwh_as
from app.db.copy.report import CopyRefused, CopyReport
from app.db.copy.tables import CopyOptions, copied_tables

__all__ = [
    "CopyOptions",
    "CopyRefused",
    "CopyReport",
    "copied_tables",
    "copy_database",
    "parse_kwh_as",
]
