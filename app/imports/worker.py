"""The process that runs one import: `python -m app.imports.worker`, started by a gateway.

It reads a `WorkerJob` from standard input and the file from an inherited descriptor. It writes and
notes the end of the import in one transaction, as the caller whose token was verified. To standard
output it writes lines of JSON: `rows`, the number read so far, and at last `error` if it failed.
"""

import json
import os
import resource
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import psycopg
from pydantic import TypeAdapter

from app.db.session import AS_CALLER, AS_INSERT
from app.imports.options import ImportRequest, in_json
from app.ingest.faults import FormatError, Refused
from app.ingest.options import ImportOptions
from app.ingest.pipeline import import_data
from app.ingest.registers import UnknownRegister
from app.ingest.summary import ImportSummary

NICE = 10  # requests go before imports
# The largest text needs half of it. A workbook of two cells, the first and the last that a sheet
# has, is a table of 17 thousand million when it is read.
MEMORY_BYTES = 3 << 29
TOO_LARGE = "the file needs too much memory; send it in parts, or as CSV"
PROGRESS_SECONDS = 0.5
REFUSED_LISTED = 1_000
DAYS_LISTED = 10_000
MOST_LOGGED = 1_000  # characters of an error, which may quote the file
REPORT = TypeAdapter(ImportSummary)


@dataclass(frozen=True, slots=True)
class WorkerJob:
    """An import: the file's descriptor, its options, and the caller to act as."""

    database_url: str
    role: str
    claims: dict[str, Any]
    run: str
    file: int
    options: dict[str, Any]
    largest_bytes: int
    seconds: float

    def to_json(self) -> bytes:
        """Return the job for standard input."""
        return json.dumps(asdict(self)).encode()


class Superseded(Exception):  # noqa: N818
    """Another attempt has taken the place of this one."""


def main() -> None:
    """Run the import that standard input describes."""
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # of a file and a password
    job = WorkerJob(**json.loads(sys.stdin.buffer.read()))
    try:
        _run(job)
    except (FormatError, UnknownRegister) as error:
        tell(error=in_json(str(error)))
    except UnicodeDecodeError as error:
        tell(error=f"the file is not {error.encoding} text; name its encoding")
    except MemoryError:
        tell(error=TOO_LARGE)
    except Superseded:
        tell(error="the file was sent again, and that import took the place of this one")
    except psycopg.Error as error:
        tell(error=_describe(error, job))


def tell(**line: Any) -> None:
    """Write a line for the gateway."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _run(job: WorkerJob) -> None:
    request = ImportRequest(**job.options)
    given = {name: getattr(request, name) for name in request.model_fields_set - {"dry_run"}}
    with (
        open(job.file, "rb") as data,
        psycopg.connect(job.database_url, application_name="flows-import") as connection,
        connection.transaction(),
    ):
        data.seek(0)
        connection.execute(AS_CALLER, {"role": job.role, "claims": json.dumps(job.claims)})
        connection.execute(AS_INSERT)
        connection.execute(
            "select set_config('statement_timeout', %s, true),"
            " set_config('flows.importing', 'on', true),"
            " set_config('client_connection_check_interval', '1s', true)",
            (f"{job.seconds:.0f}s",),
        )
        connection.execute("select gateway.authorize()")
        summary = import_data(
            connection,
            data,
            ImportOptions(**given),
            largest_bytes=job.largest_bytes,
            dry_run=request.dry_run,
            as_caller=True,
            progress=_Progress(),
        )
        _finish(connection, job, summary)


class _Progress:
    """Tells the rows read, now and then."""

    def __init__(self) -> None:
        self._told = 0.0

    def __call__(self, rows: int) -> None:
        if time.monotonic() - self._told >= PROGRESS_SECONDS:
            tell(rows=rows)
            self._told = time.monotonic()


def _finish(connection: psycopg.Connection[Any], job: WorkerJob, summary: ImportSummary) -> None:
    """Note the end of the import in the transaction that has written its rows."""
    state, error = "done", None
    if summary.refused:
        first = summary.refused[0]
        state = "failed"
        error = (
            f"nothing was written: {summary.refused_rows} of {summary.read} rows are refused,"
            f" the first in line {first.line}: {first.reason}"
        )
    summary.refused = [
        Refused(row.line, in_json(row.reason)) for row in summary.refused[:REFUSED_LISTED]
    ]
    if summary.preview is not None:
        del summary.preview.days[DAYS_LISTED:]
    # PostgreSQL keeps no NUL, which a reason may quote from the file.
    report = REPORT.dump_json(summary).replace(b"\\u0000", b"\\ufffd").decode()
    connection.execute("set local role none")
    row = connection.execute(
        "select gateway.finish_import(%s, %s, %s, %s, %s)",
        (job.run, state, summary.read, error and in_json(error).replace("\0", "\ufffd"), report),
    ).fetchone()
    if row != (True,):
        raise Superseded


def _describe(error: psycopg.Error, job: WorkerJob) -> str:
    """Return the reason for the caller; the server's own words go to the log."""
    if error.sqlstate in ("PT401", "PT403", "PT422"):
        return str(error.diag.message_primary)
    if isinstance(error, psycopg.errors.QueryCanceled):
        return f"the import took longer than {job.seconds:.0f} seconds; send the file in parts"
    sys.stderr.write(f"import {job.run}: {error.sqlstate} {str(error)[:MOST_LOGGED]!r}\n")
    if error.sqlstate is None or error.sqlstate[:2] in ("08", "53", "57"):
        return "the database does not answer right now; send the file again"
    return f"the database refused the rows ({error.sqlstate})"


if __name__ == "__main__":
    main()
