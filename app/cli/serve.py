"""`flows serve`: the gateway alone."""

from app.settings import Settings


def serve() -> None:
    """Run the gateway alone, against the database and PostgREST that the environment names."""
    # Imported here, so that the other commands start without the web framework.
    from app.http.server import serve as run
    from app.main import create_app

    settings = Settings()
    run(create_app(settings), settings)
