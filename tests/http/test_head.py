"""HEAD is answered wherever GET is, with the same head and no body."""

import tempfile

import httpx
import pytest
from fastapi.routing import APIRoute, iter_route_contexts

from app.auth.tokens import Grant
from app.main import create_app
from app.settings import DatabaseSettings, Settings
from tests.conftest import Stack

DATES = {"server-timing", "x-request-id", "date", "ratelimit", "content-length", "data-as-of"}


def get_paths() -> list[str]:
    """Return the paths of all routes that answer GET, without those with a parameter."""
    with tempfile.TemporaryDirectory() as folder:
        gateway = create_app(
            Settings(home=folder, database=DatabaseSettings(url="postgresql://127.0.0.1:1/flows"))
        )
    found = [
        str(route.path_format)
        for route in iter_route_contexts(gateway.routes)
        if isinstance(route.original_route, APIRoute) and "GET" in (route.methods or ())
    ]
    return sorted({path for path in found if "{" not in path})


@pytest.fixture
def operator(stack: Stack) -> dict[str, str]:
    """Headers with a token of an operator."""
    grant = Grant("flc_operator", "operator", None, None, ("admin",))
    token = stack.issue(grant)
    return {"Authorization": f"Bearer {token}"}


def test_every_path_answers_head_as_it_answers_get(stack: Stack, operator: dict[str, str]) -> None:
    read = {"Authorization": f"Bearer {stack.contract['escos']['wlce']['read_token']}"}
    paths = get_paths()
    assert {"/", "/live", "/ready", "/docs", "/metrics", "/openapi.json", "/v1/energy"} <= {*paths}
    with httpx.Client(base_url=stack.contract["base_url"], timeout=30) as client:
        for path in paths:
            headers = operator if path.startswith("/admin") else read
            got = client.get(path, headers=headers)
            head = client.head(path, headers=headers)
            assert head.status_code == got.status_code, path
            assert head.content == b""
            assert {*head.headers} - DATES == {*got.headers} - DATES - {"transfer-encoding"}, path


def test_head_of_a_route_without_get_is_a_405_and_an_allow_names_head(stack: Stack) -> None:
    with httpx.Client(base_url=stack.contract["base_url"]) as client:
        refused = client.head("/auth/token")
        assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
        refused = client.delete("/live")
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")


def test_the_root_redirects_to_the_page(stack: Stack) -> None:
    answer = httpx.get(stack.contract["base_url"] + "/")
    assert (answer.status_code, answer.headers["location"]) == (307, "/docs")


def test_an_operators_document_has_the_gateways_routes(
    stack: Stack, operator: dict[str, str]
) -> None:
    answer = httpx.get(stack.contract["base_url"] + "/openapi.json", headers=operator)
    assert answer.status_code == 200, answer.text
    paths = answer.json()["paths"]
    assert "/admin/clients" in paths
    assert not [path for path in paths if path.startswith("/rest/v1")]
