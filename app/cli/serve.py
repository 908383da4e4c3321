"""`flows serve`: only the gateway."""

import ctypes
import gc
import os
import tempfile
from contextlib import suppress

import typer

from app.auth.keys import load_keys
from app.cli.output import fail
from app.db.exposed import check_exposed
from app.db.schema import check_database
from app.db.session import database_url
from app.settings import Settings

# Of <malloc.h>, and bytes from which memory is taken from the system and given back at once.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, RETURNED_BYTES = -1, -3, 2**18


def serve() -> None:
    """Run only the gateway, with the database and PostgREST set by the environment."""
    # Imported here so that other commands start without loading the web framework. The imported
    # objects stay, so a fifth of the time would go to looking for garbage among them.
    gc.disable()
    _steady_memory()
    settings = Settings()
    if settings.workers > 1:
        # Read as the client library of Prometheus is imported; removed by the server.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="flows-workers-")
    from app.http.server import serve as run
    from app.main import create_app

    url = database_url(settings.database)
    if reason := check_database(url) or check_exposed(url, settings.postgrest.schemas):
        raise fail(reason)
    load_keys(settings.key_folder, settings.signing_key)  # created once, not by each worker
    raise typer.Exit(run(create_app, settings))


def _steady_memory() -> None:
    """Give large pieces of memory back as soon as they are free.

    glibc raises its thresholds with each large piece, so that a process which once wrote a large
    response would keep tens of megabytes. Other C libraries have no such function.
    """
    with suppress(AttributeError, OSError):
        c = ctypes.CDLL(None)
        for threshold in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            c.mallopt(threshold, RETURNED_BYTES)
