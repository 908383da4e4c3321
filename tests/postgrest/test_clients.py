"""Existing client libraries work unchanged: supabase-py, postgrest-py, supabase-js."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from postgrest import APIError, APIResponse, SyncPostgrestClient
from postgrest.types import CountMethod, ReturnMethod
from supabase import Client, ClientOptions, create_client

from tests.conftest import Stack

# supabase-py uses deprecated parameters of its own components.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The '(timeout|verify)' parameter:DeprecationWarning"
)

SUPABASE_JS = "@supabase/supabase-js@2.58.0"
SCRIPT = Path(__file__).with_name("supabase.mjs")


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """The HTTP client that the Python libraries use; closed at the end."""
    with httpx.Client() as client:
        yield client


@pytest.fixture
def supabase(either: Stack, http: httpx.Client) -> Client:
    """A supabase-py client with the write token as key and the schema `flows`."""
    token = either.contract["escos"]["wlce"]["write_token"]
    options = ClientOptions(
        schema="flows", auto_refresh_token=False, persist_session=False, httpx_client=http
    )
    return create_client(either.contract["base_url"], token, options)


@pytest.fixture(autouse=True)
def nothing_is_left(either: Stack) -> Iterator[None]:
    """Delete the sites that a test created."""
    yield
    with either.client("wlce", "write") as client:
        client.delete("/rest/v1/sites_new?code=like.py-*").raise_for_status()
        client.delete("/rest/v1/sites_new?code=like.js-*").raise_for_status()


def data(answer: APIResponse) -> Any:
    """The rows of an answer, which the library types as any JSON."""
    return answer.data


def site(stack: Stack, code: str, **columns: Any) -> dict[str, Any]:
    """Return the columns of a site of wlce."""
    return {"esco": stack.contract["escos"]["wlce"]["id"], "name": "py", "code": code} | columns


def test_supabase_py_reads(supabase: Client) -> None:
    meters = supabase.table("meter_registry")
    embedded = meters.select("serial,meter_registers(element)").order("serial").limit(2).execute()
    assert [row["serial"] for row in data(embedded)] == ["WLCE0001", "WLCE0002"]
    page = meters.select("serial", count=CountMethod.exact).order("serial").range(2, 3).execute()
    assert (page.count, [row["serial"] for row in data(page)]) == (13, ["WLCE0003", "WLCE0004"])
    single = meters.select("serial").eq("serial", "WLCE0001").single().execute()
    assert single.data == {"serial": "WLCE0001"}
    assert meters.select("serial").eq("serial", "none").maybe_single().execute() is None
    text = meters.select("serial").order("serial").limit(1).csv().execute()
    assert text.data == "serial\nWLCE0001"
    either = meters.select("serial").or_("serial.eq.WLCE0001,serial.eq.WLCE0002").execute()
    assert len(either.data) == 2
    head = meters.select("serial", count=CountMethod.exact, head=True).execute()
    assert (head.count, head.data) == (13, [])


def test_supabase_py_writes(either: Stack, supabase: Client) -> None:
    sites = supabase.table("sites_new")
    made = data(sites.insert(site(either, "py-1")).execute())[0]
    assert made["code"] == "py-1"
    both = [site(either, "py-1", name="again"), site(either, "py-2")]
    upserted = sites.upsert(both, on_conflict="code").execute()
    assert [row["name"] for row in data(upserted)] == ["again", "py"]
    quiet = sites.insert(site(either, "py-3"), returning=ReturnMethod.minimal).execute()
    assert quiet.data == []
    updated = sites.update({"location": "here"}).eq("code", "py-1").execute()
    assert data(updated)[0]["location"] == "here"
    deleted = sites.delete().in_("code", ["py-1", "py-2"]).execute()
    assert {row["code"] for row in data(deleted)} == {"py-1", "py-2"}


def test_supabase_py_needs_no_schema(either: Stack) -> None:
    token = either.contract["escos"]["wlce"]["read_token"]
    with either.client("wlce") as client:
        paths = client.get("/openapi.json").json()["paths"]
    tables = [path.removeprefix("/rest/v1/") for path in paths
              if path.startswith("/rest/v1/") and "/rpc/" not in path]  # fmt: skip
    assert len(tables) >= 30
    with httpx.Client() as http:
        plain = create_client(either.contract["base_url"], token, ClientOptions(httpx_client=http))
        for table in tables:
            assert isinstance(data(plain.table(table).select("*").limit(1).execute()), list)
        assert data(plain.rpc("current_esco", {}).execute())[0]["code"] == "wlce"


ABSENT = {
    "auth": ("POST", "/auth/v1/token?grant_type=password"),
    "realtime": ("GET", "/realtime/v1/websocket?vsn=1.0.0"),
    "storage": ("PUT", "/storage/v1/object/files/x"),
    "functions": ("POST", "/functions/v1/anything"),
    "graphql": ("POST", "/graphql/v1"),
}


@pytest.mark.parametrize("part", ABSENT)
@pytest.mark.parametrize("esco", ["wlce", None])
def test_what_of_supabase_is_not_here_says_so(stack: Stack, part: str, esco: str | None) -> None:
    method, path = ABSENT[part]
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    with stack.client(esco) as client:
        answer = client.request(method, path, headers=upgrade if part == "realtime" else {})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert answer.headers["content-type"] == "application/problem+json"
    assert f"Supabase's {part} is not part of this service. " in answer.json()["detail"]


def test_supabase_py_calls_functions(supabase: Client) -> None:
    assert data(supabase.rpc("current_esco", {}).execute())[0]["code"] == "wlce"
    assert data(supabase.rpc("current_esco", get=True).execute())[0]["code"] == "wlce"


def test_supabase_py_understands_refusals(either: Stack, supabase: Client) -> None:
    sites = supabase.table("sites_new")
    foreign = either.contract["escos"]["hmce"]["id"]
    for request, code, message in (
        (sites.select("nope"), "42703", "column sites_new.nope does not exist"),
        (sites.insert(site(either, "py-4", esco=foreign)), "42501", "row-level security"),
        (sites.select("id").eq("code", "none").single(), "PGRST116", "json object"),
        (supabase.table("a;b").select("*"), "bad_request", "path"),
    ):
        with pytest.raises(APIError) as refused:
            request.execute()
        assert refused.value.code == code
        assert message.lower() in str(refused.value.message).lower()


def test_the_bearer_wins_over_the_apikey(either: Stack) -> None:
    escos = either.contract["escos"]
    headers = {
        "apikey": escos["wlce"]["read_token"],
        "Authorization": f"Bearer {escos['hmce']['read_token']}",
    }
    url = either.contract["rest_url"]
    with SyncPostgrestClient(url, schema="flows", headers=headers) as client:
        assert client.from_("escos").select("code").execute().data == [{"code": "hmce"}]
    with (
        SyncPostgrestClient(url, headers={"apikey": "wrong"}) as anonymous,
        pytest.raises(APIError) as refused,
    ):
        anonymous.from_("escos").select("code").execute()
    assert refused.value.code == "unauthorized"


@pytest.fixture(scope="module")
def supabase_js(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with supabase-js, installed by npm."""
    npm = shutil.which("npm")
    if not npm or not shutil.which("node"):
        pytest.skip("npm and node are not installed here")
    folder = tmp_path_factory.mktemp("supabase-js")
    done = subprocess.run(
        [npm, "install", "--no-audit", "--no-fund", "--silent", "--prefix", folder, SUPABASE_JS],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"npm could not bring {SUPABASE_JS}: {done.stderr.strip()[-200:]}")
    shutil.copy(SCRIPT, folder)
    return folder


def test_supabase_js_works_unchanged(either: Stack, supabase_js: Path) -> None:
    esco = either.contract["escos"]["wlce"]
    done = subprocess.run(
        ["node", SCRIPT.name],
        cwd=supabase_js,
        env=os.environ
        | {
            "BASE_URL": either.contract["base_url"],
            "TOKEN": esco["write_token"],
            "ESCO": esco["id"],
            "FOREIGN_ESCO": either.contract["escos"]["hmce"]["id"],
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"checks": 21}
