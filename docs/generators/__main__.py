"""`python -m docs.generators [PAGE …]`: write the generated pages of docs/reference.

The schema is read from a temporary server that is started and migrated for it.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from app.db.migrate import migrate
from app.embedded.postgres import EmbeddedPostgres
from docs.generators import cli, schema, settings

REFERENCE = Path(__file__).parents[1] / "reference"


@contextmanager
def migrated_database() -> Iterator[str]:
    """Yield the URL of an empty database with the schema of sql/, on a temporary server."""
    with tempfile.TemporaryDirectory(prefix="flows-docs-", dir="/tmp") as folder:
        home = Path(folder)
        (home / "logs").mkdir()
        server = EmbeddedPostgres(home)
        try:
            server.start()
            migrate(server.admin_url)
            yield server.admin_url
        finally:
            server.stop()


def schema_page() -> str:
    """Return the schema reference, generated from a temporary database."""
    with migrated_database() as url:
        return schema.page(url)


PAGES: dict[str, Callable[[], str]] = {
    "settings": settings.page,
    "cli": cli.page,
    "schema": schema_page,
}


def main(names: list[str]) -> None:
    """Write the named pages, or all of them, if their text has changed."""
    for name in names or PAGES:
        file = REFERENCE / f"{name}.md"
        text = PAGES[name]()
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
            print(f"  {file.relative_to(Path.cwd())} is new", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
