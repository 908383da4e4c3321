"""The command `flows import`, and the rows it has written."""

import subprocess
from pathlib import Path
from typing import Any

import psycopg

from tests.conftest import Stack, flows

Admin = psycopg.Connection[Any]


def run(stack: Stack, file: Path, register: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `flows import` on a file."""
    return flows(stack, "import", str(file), "--register", register, *options, check=False)


def run_import(stack: Stack, file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `flows import` on a file with all of its options."""
    return flows(stack, "import", str(file), *options, check=False)


def stored(admin: Admin, register: str, table: str = "register_interval_hh") -> list[Any]:
    """Return the rows of a register, by time, as they are now."""
    admin.rollback()
    columns = "read" if table != "register_interval_hh" else "import_kwh, export_kwh, derived"
    query = f'select "timestamp", {columns} from flows.{table} where register_id = %s order by 1'
    return admin.execute(query.encode(), (register,)).fetchall()
