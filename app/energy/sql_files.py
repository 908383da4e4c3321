"""The SQL of the reports, a file each in `sql`."""

from functools import cache
from importlib import resources


@cache
def read_sql(name: str) -> str:
    """Return the text of a file; `{part}` in it is SQL that its report fills in by `format`."""
    return resources.files("app.energy").joinpath("sql", f"{name}.sql").read_text()
