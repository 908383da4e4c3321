"""`flows serve`: only the gateway."""

import gc
import os
import tempfile

import typer

from app.auth.keys import load_keys
from app.cli.output import fail
from app.db.exposed import check_exposed
from app.db.schema import check_database
from app.db.session import database_url
from app.memory import keep_steady
from app.settings import Settings


def serve() -> None:
    """Run only the gateway, with the database and PostgREST set by the environment."""
    # Imported here so that other commands start without loading the web framework. The imported
    # objects stay, so a fifth of the time would go to looking for garbage among them.
    gc.disable()
    keep_steady()
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
