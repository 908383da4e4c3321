"""Shared caches give no caller's response to another."""

import pytest

from tests.conftest import Stack

VARY = {"Authorization", "apikey", "Accept", "Accept-Profile", "Prefer", "Range"}


@pytest.mark.parametrize("token", ["wlce", None])
@pytest.mark.parametrize(
    "path",
    ["/rest/v1/escos", "/rest/v1/nothing", "/v1/latest", "/v1/nothing", "/v1/energy",
     "/v1/latest?format=csv"],
)  # fmt: skip
def test_69_responses_to_a_token_are_private(stack: Stack, path: str, token: str | None) -> None:
    with stack.client(token) as client:
        answer = client.get(path)
    assert answer.headers.get_list("cache-control") == ["private, no-cache"]
    assert set(answer.headers["vary"].split(", ")) >= VARY


@pytest.mark.parametrize("path", ["/admin/clients", "/admin/audit", "/auth/token"])
def test_69_nothing_of_administration_is_stored(stack: Stack, path: str) -> None:
    with stack.client(None) as client:
        answer = client.post(path) if path.startswith("/auth") else client.get(path)
    assert answer.headers.get_list("cache-control") == ["no-store"]


def test_69_a_document_differs_by_either_header(stack: Stack) -> None:
    with stack.client("wlce") as client:
        answer = client.get("/openapi.json")
    assert answer.headers["vary"] == "Authorization, apikey, Accept-Encoding"
