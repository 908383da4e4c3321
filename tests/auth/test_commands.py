"""`flows esco|client|token|keys`, used at a terminal and by programs."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.auth.test_clients import ask, make
from tests.conftest import Stack, flows, wait_until


def printed(stack: Stack, *words: str) -> dict[str, Any]:
    """Run a command and return the single object it prints as JSON."""
    (row,) = json.loads(flows(stack, *words, "--json").stdout)
    found: dict[str, Any] = row
    return found


def test_a_client_is_changed_loses_a_secret_and_expires_from_the_terminal(stack: Stack) -> None:
    client = make(stack, "sync", "--esco", "wlce", "--days", "30")
    ends = datetime.fromisoformat(client["expires_at"])
    assert timedelta(days=29) < ends - datetime.now(UTC) <= timedelta(days=30)
    options = ("--name", "meter sync", "--scope", "write", "--lifetime", "600", "--days", "1")
    changed = printed(stack, "client", "change", client["id"], *options)
    assert (changed["name"], changed["scopes"], changed["role"]) == (
        "meter sync", ["write"], "flows",
    )  # fmt: skip
    assert datetime.fromisoformat(changed["expires_at"]) < ends
    assert ask(stack, client["id"], client["client_secret"]).json()["expires_in"] == 600
    new = printed(stack, "client", "rotate-secret", client["id"])["client_secret"]
    oldest = client["secrets"][0]["id"]
    (left,) = printed(stack, "client", "delete-secret", client["id"], oldest)["secrets"]
    assert left["id"] != oldest
    secrets = (client["client_secret"], new)
    assert [ask(stack, client["id"], secret).status_code for secret in secrets] == [401, 200]
    assert printed(stack, "client", "disable", client["id"])["disabled_at"]
    assert printed(stack, "client", "enable", client["id"])["disabled_at"] is None


def test_a_long_lived_token_is_issued_and_revoked_by_a_program(stack: Stack) -> None:
    made = printed(stack, "token", "--esco", "wlce", "--name", "job", "--days", "2")
    headers = {"Authorization": f"Bearer {made['access_token']}"}
    url = f"{stack.contract['rest_url']}/escos"
    assert httpx.get(url, headers=headers).status_code == 200
    assert printed(stack, "token", "revoke", made["jti"])["jti"] == made["jti"]
    wait_until(lambda: httpx.get(url, headers=headers).status_code == 401, seconds=5)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("client", "create", "", "--esco", "wlce"), "name: 1 to 200 characters"),
        (("client", "create", "x" * 201, "--esco", "wlce"), "name: 1 to 200 characters"),
        (("client", "create", "x", "--esco", "wlce", "--lifetime", "1"), "--lifetime: 60 to"),
        (("client", "change", "flc_none", "--name", "x"), "There is no such client."),
        (("client", "change", "flc_none"), "give at least one change"),
        (
            ("esco", "create", "x", "One letter"),
            "code: must be 2 to 32 lower-case letters and digits",
        ),
        (("esco", "create", "noname", " "), "name: 1 to 200 characters"),
        (("keys", "retire", "none"), "there is no key none"),
        (("keys", "retire", "-E3f_none"), "there is no key -E3f_none"),
        (("keys", "retire", "--3f_none"), "there is no key --3f_none"),
    ],
)
def test_an_impossible_command_prints_one_line(
    stack: Stack, words: tuple[str, ...], says: str
) -> None:
    done = flows(stack, *words, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
