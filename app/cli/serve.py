"""`flows serve`: only the gateway."""

import gc

from app.cli.output import fail
from app.db.exposed import check_exposed
from app.db.schema import check_database
from app.db.session import database_url
from app.settings import Settings


def serve() -> None:
    """Run only the gateway, with the database and PostgREST set by the environment."""
    # Imported here so that other commands start without loading the web framework. The imported
    # objects stay, so a fifth of the time would go to looking for garbage among them.
    gc.disable()
    from app.http.server import serve as run
    from app.main import create_app

    settings = Settings()
    url = database_url(settings.database)
    if reason := check_database(url) or check_exposed(url, settings.postgrest.schemas):
        raise fail(reason)
    run(create_app(settings), settings)
