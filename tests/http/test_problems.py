"""Answers to requests that meet a fault of the gateway itself."""

import httpx
import pytest

from app.auth.tokens import TokenVerifier
from app.monitoring.health import Probe
from tests.conftest import Stack
from tests.http.test_request_state import second_gateway


@pytest.mark.parametrize(
    ("broken", "name", "path"),
    [(Probe, "result", "/ready"), (TokenVerifier, "verify", "/v1/latest")],
    ids=["in a route", "before routing"],
)
def test_a_fault_of_the_gateway_is_a_problem_and_keeps_the_connection(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, broken: type, name: str, path: str
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    token = stack.contract["escos"]["wlce"]["read_token"]
    with second_gateway(stack) as url, httpx.Client(base_url=url) as client:
        monkeypatch.setattr(broken, name, fail)
        answer = client.get(path, headers={"Authorization": f"Bearer {token}"})
        again = client.get("/live")
    assert answer.status_code == 500
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"]
    # httpx keeps one connection while the server does.
    assert again.extensions["network_stream"] is answer.extensions["network_stream"]
