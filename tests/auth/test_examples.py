"""The examples of docs/how-to/tokens.md run as written and achieve their purpose."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata
from typer.testing import CliRunner

from app.auth.oauth import router
from app.cli.__main__ import app
from tests.conftest import Stack

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "tokens.md"
WRITTEN_BASE = "https://api.example.org"


def examples(title: str) -> str:
    """Return the code of the blocks under a heading."""
    section = GUIDE.read_text().partition(f"## {title}\n")[2].partition("\n## ")[0]
    code = "".join(re.findall(r"^```\w+\n(.*?)^```", section, re.MULTILINE | re.DOTALL))
    assert code
    return code


def example(stack: Stack, title: str) -> str:
    """Return the code under a heading with the stack's URL instead of the example host's."""
    return examples(title).replace(WRITTEN_BASE, stack.contract["base_url"])


def credentials(stack: Stack) -> tuple[str, str]:
    """Return id and secret of a demo client."""
    client = stack.contract["escos"]["wlce"]
    return client["client_id"], client["client_secret"]


def works(stack: Stack, token: str) -> bool:
    """Return whether a token reads wlce and nothing else."""
    headers = {"Authorization": f"Bearer {token}"}
    rows = httpx.get(f"{stack.contract['rest_url']}/escos?select=code", headers=headers).json()
    return bool(rows == [{"code": "wlce"}])


def test_the_curl_example_prints_a_token(stack: Stack) -> None:
    client_id, secret = credentials(stack)
    done = subprocess.run(
        ["bash", "-ec", example(stack, "curl")],
        env=os.environ | {"CLIENT_ID": client_id, "CLIENT_SECRET": secret},
        capture_output=True,
        check=True,
    )
    answer = httpx.Response(200, content=done.stdout).json()
    assert works(stack, answer["access_token"])
    assert answer["scope"] == "read"


def test_the_python_example_reads_meters(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    client_id, secret = credentials(stack)
    monkeypatch.setenv("CLIENT_ID", client_id)
    monkeypatch.setenv("CLIENT_SECRET", secret)
    names: dict[str, object] = {}
    exec(example(stack, "Python"), names)  # noqa: S102
    assert works(stack, str(names["token"]))
    meters = names["meters"]
    assert isinstance(meters, list)
    assert {"serial", "name"} == set(meters[0])


@pytest.mark.skipif(not shutil.which("node"), reason="node is not installed here")
def test_the_javascript_example_gets_a_token(stack: Stack, tmp_path: Path) -> None:
    client_id, secret = credentials(stack)
    # tests/postgrest tests supabase-js itself; this stub only returns the URL and key it gets.
    before = (
        "const [clientId, clientSecret] = [process.env.CLIENT_ID, process.env.CLIENT_SECRET];\n"
        "const createClient = (url, key) => ({ url, key });\n"
    )
    after = "\nconsole.log(JSON.stringify({ ...supabase, access_token }));\n"
    script = tmp_path / "example.mjs"
    script.write_text(before + example(stack, "JavaScript") + after)
    done = subprocess.run(
        ["node", script],
        env=os.environ | {"CLIENT_ID": client_id, "CLIENT_SECRET": secret},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = httpx.Response(200, content=done.stdout).json()
    assert printed["url"] == stack.contract["base_url"]
    assert printed["key"] == printed["access_token"]
    assert works(stack, printed["key"])


def test_every_command_of_the_terminal_example_exists(stack: Stack) -> None:
    commands = CliRunner()
    lines = example(stack, "From a terminal").splitlines()
    assert len(lines) >= 8
    for line in lines:
        words = line.partition("#")[0].split()
        assert words[0] == "flows"
        named = words[1:3] if not words[2].startswith("-") else words[1:2]
        told = commands.invoke(app, [*named, "--help"], catch_exceptions=False).stdout
        for option in (word for word in words if word.startswith("--")):
            assert option in told, line


def test_the_metadata_is_what_rfc_8414_asks_for_and_names_every_endpoint(stack: Stack) -> None:
    base = stack.contract["base_url"]
    answer = httpx.get(f"{base}/.well-known/oauth-authorization-server")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "public, max-age=3600"
    told = answer.json()
    assert told["issuer"] == base
    assert told["grant_types_supported"] == [
        "client_credentials",
        "urn:ietf:params:oauth:grant-type:token-exchange",
    ]
    assert told["response_types_supported"] == ["none"]
    named = {url.removeprefix(base) for name, url in told.items()
             if name.endswith(("_endpoint", "_uri"))}  # fmt: skip
    there = {getattr(route, "path", "") for route in router.routes}
    assert named == there - {"/.well-known/oauth-authorization-server"}
    for method in ("token", "revocation", "introspection"):
        methods = told[f"{method}_endpoint_auth_methods_supported"]
        # Apps without a secret exchange tokens, and end what they were given.
        public = [] if method == "introspection" else ["none"]
        assert methods == ["client_secret_basic", "client_secret_post", *public]


def test_the_metadata_pass_a_strict_validator(stack: Stack) -> None:
    url = stack.contract["base_url"]
    text = httpx.get(f"{url}/.well-known/oauth-authorization-server").text
    # The validator takes HTTPS alone, which a proxy adds in production.
    told = AuthorizationServerMetadata(json.loads(text.replace(url, WRITTEN_BASE)))
    told.validate()
    assert told["response_types_supported"], "it is never empty (RFC 8414 §2)"


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 200),
        ({"resource": "URL"}, 200),
        ({"resource": "URL/rest/v1"}, 200),
        ({"audience": "flows"}, 200),
        ({"audience": "URL", "resource": "URL"}, 200),
        ({"resource": "https://other.example"}, 400),
        ({"resource": "URL.other.example"}, 400),
        ({"resource": "flows"}, 400),
        ({"resource": ""}, 400),
        ({"audience": "other"}, 400),
    ],
)
def test_a_token_for_another_service_is_refused(
    stack: Stack, fields: dict[str, str], status: int
) -> None:
    url = stack.contract["base_url"]
    form = {name: text.replace("URL", url) for name, text in fields.items()}
    form["grant_type"] = "client_credentials"
    answer = httpx.post(f"{url}/auth/token", data=form, auth=credentials(stack))
    assert answer.status_code == status, answer.text
    if status == 400:
        assert answer.json()["error"] == "invalid_target"


DISCOVER = """
import * as oauth from "openid-client";
const { BASE, ID, SECRET } = process.env;
const server = await oauth.discovery(new URL(BASE), ID, SECRET, undefined, {
  algorithm: "oauth2",
  execute: [oauth.allowInsecureRequests],  // a proxy adds TLS in production
});
const token = await oauth.clientCredentialsGrant(server, { scope: "read" });
const { active } = await oauth.tokenIntrospection(server, token.access_token);
await oauth.tokenRevocation(server, token.access_token);
const after = await oauth.tokenIntrospection(server, token.access_token);
console.log(server.serverMetadata().issuer === BASE, token.token_type, active, after.active);
const wrong = await oauth.clientCredentialsGrant(server, { resource: "https://other.example" })
  .catch((refused) => refused.error);
console.log(wrong);
"""


def test_a_strict_client_discovers_the_server_and_uses_its_endpoints(
    stack: Stack, npm_tools: Path, tmp_path: Path
) -> None:
    (tmp_path / "node_modules").symlink_to(npm_tools / "node_modules")
    (tmp_path / "discover.mjs").write_text(DISCOVER)
    client = stack.contract["escos"]["wlce"]
    environment = os.environ | {
        "BASE": stack.contract["base_url"],
        "ID": client["client_id"],
        "SECRET": client["client_secret"],
    }
    ran = subprocess.run(
        ["node", "discover.mjs"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.stderr == ""
    assert ran.stdout.splitlines() == ["true bearer true false", "invalid_target"]
