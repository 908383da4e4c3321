"""If-None-Match as in RFC 9110: the rule itself, and its use by all resources with an ETag."""

import pytest
from starlette.requests import Request

from app.http.conditional import is_not_modified
from tests.conftest import Stack


@pytest.mark.parametrize(
    ("method", "lines", "not_modified"),
    [
        ("GET", [], False),
        ("GET", ['"a"'], True),
        ("HEAD", ['"a"'], True),
        ("GET", ['W/"a"'], True),
        ("GET", ['"b" , W/"a"'], True),
        ("GET", ['"b"', '"a"'], True),
        ("GET", ['"b"'], False),
        ("GET", ["a"], False),
        ("GET", ["*"], True),
        ("HEAD", [" * "], True),
        ("GET", ['"*"'], False),
        ("POST", ["*"], False),
        ("POST", ['"a"'], False),
    ],
)
def test_if_none_match(method: str, lines: list[str], not_modified: bool) -> None:
    headers = [(b"if-none-match", line.encode()) for line in lines]
    request = Request({"type": "http", "method": method, "headers": headers})
    assert is_not_modified(request, '"a"') == not_modified


PERIOD = "period_from=2026-01-01T00:00Z&period_to=2026-01-02T00:00Z"


@pytest.mark.parametrize("path", ["/openapi.json", f"/v1/energy?{PERIOD}", "/v1/latest"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_any_tag_is_the_tag_of_what_is_there(stack: Stack, method: str, path: str) -> None:
    with stack.client("wlce") as client:
        tag = client.get(path).headers["etag"]
        assert client.request(method, path).status_code == 200
        for named in ("*", tag, f"W/{tag}", f'"other", {tag}'):
            answer = client.request(method, path, headers={"If-None-Match": named})
            assert (answer.status_code, answer.content) == (304, b""), named
            assert answer.headers["etag"] == tag
        other = client.request(method, path, headers={"If-None-Match": '"other"'})
        assert other.status_code == 200
