"""The home that files are imported into."""

from collections.abc import Iterator

import pytest

from tests.conftest import Stack
from tests.ingest.command import Admin
from tests.ingest.conftest import new_home


@pytest.fixture
def home(stack: Stack, admin: Admin) -> Iterator[dict[str, str]]:
    """A home of wlce with one register and circuit, removed afterwards with all imports."""
    with new_home(stack, admin) as ids:
        yield ids
    admin.execute("delete from gateway.import")
    admin.commit()
