"""A URL is validated once; everything else is looked at with each request."""

import pytest

from tests.conftest import Stack


@pytest.mark.parametrize(
    "read", ["energy", "balance", "profile", "peak", "completeness", "latest", "alerts"]
)
def test_a_url_asked_before_has_the_rows_of_each_caller(stack: Stack, read: str) -> None:
    period = {} if read in ("latest", "alerts") else stack.period(9, 7)
    bodies: dict[str, list[str]] = {}
    for _ in range(2):
        for esco in ("wlce", "hmce"):
            with stack.client(esco) as client:
                answer = client.get(f"/v1/{read}", params=period)
                assert answer.status_code == 200, answer.text
                bodies.setdefault(esco, []).append(answer.text)
    for first, second in bodies.values():
        assert first == second
    assert bodies["wlce"][0] != bodies["hmce"][0]


def test_a_url_asked_before_still_needs_a_token(stack: Stack) -> None:
    for token, expected in (("wlce", 200), (None, 401), ("wlce", 200)):
        with stack.client(token) as client:
            assert client.get("/v1/energy", params=stack.period(9, 8)).status_code == expected


def test_a_url_asked_before_has_the_filter_of_its_path(stack: Stack) -> None:
    with stack.client("wlce") as client:
        rows = client.get("/v1/energy", params=stack.period(9, 8)).json()["rows"]
        for _ in range(2):
            for circuit in (rows[0]["circuit"], rows[-1]["circuit"]):
                answer = client.get(f"/v1/circuits/{circuit}/energy", params=stack.period(9, 8))
                assert {row["circuit"] for row in answer.json()["rows"]} == {circuit}


def test_a_format_is_chosen_by_each_requests_headers(stack: Stack) -> None:
    with stack.client("wlce") as client:
        for accept in ("application/json", "text/csv", "application/json"):
            answer = client.get("/v1/energy", params=stack.period(9, 8), headers={"Accept": accept})
            assert answer.headers["content-type"].split(";")[0] == accept


def test_a_refused_url_is_refused_again(stack: Stack) -> None:
    with stack.client("wlce") as client:
        for _ in range(2):
            answer = client.get("/v1/energy", params=stack.period(7, 9))
            assert answer.status_code == 422
