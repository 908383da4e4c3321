"""The generated pages of docs/reference match the code and the catalogue."""

import pytest

from docs.generators import __main__ as generators
from docs.generators import schema
from tests.conftest import Stack

HINT = "is out of date: run `make docs`"


@pytest.mark.parametrize("name", ["settings", "cli"])
def test_a_page_of_the_code_is_up_to_date(name: str) -> None:
    written = (generators.REFERENCE / f"{name}.md").read_text()
    assert written == generators.PAGES[name](), f"docs/reference/{name}.md {HINT}"


def test_the_schema_reference_is_up_to_date_on_either_engine(stack: Stack) -> None:
    written = (generators.REFERENCE / "schema.md").read_text()
    assert written == schema.page(stack.contract["database_url"]), f"schema.md {HINT}"
