"""The same to a client on PostgREST 12 to 16: what is refused, named, enforced, said in headers.

Expectations are absolute: comparing the gateway with its PostgREST cannot see what a version does.
"""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest

from app.errors import Problem, Timeout, Unavailable, from_database
from app.postgrest.connection import UpstreamConnection
from app.postgrest.response import answer_headers, cleaned_error, error_headers
from tests.conftest import Stack, wait_until

SITES = "/rest/v1/sites_new"
ROWS = 3
WRITTEN = {"Prefer": "return=representation"}


@pytest.fixture
def client(either: Stack) -> Iterator[httpx.Client]:
    """A client of wlce that may write, and three sites named `limited`."""
    esco = either.contract["escos"]["wlce"]["id"]
    rows = [{"esco": esco, "name": "limited", "code": f"limited-{n}"} for n in range(ROWS)]
    with either.client("wlce", "write") as found:
        found.delete(f"{SITES}?name=eq.limited").raise_for_status()
        found.post(SITES, json=rows).raise_for_status()
        try:
            yield found
        finally:
            found.delete(f"{SITES}?name=eq.limited").raise_for_status()


def left(client: httpx.Client, **columns: str) -> int:
    """Return the number of sites named `limited` that have these values."""
    filters = {name: f"eq.{value}" for name, value in columns.items()}
    rows = client.get(SITES, params={"name": "eq.limited", "select": "id"} | filters).json()
    return len(rows)


def knows(either: Stack, *version: int) -> bool:
    """Return whether the stack's PostgREST is at least of this version."""
    return either.postgrest >= version


LIMITS = [
    "limit=1", "offset=1", "order=id&limit=1", "limit=1&offset=1", "%6cimit=1", "x=eq.1;limit=1",
    "limit=", "limit",
]  # fmt: skip


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_72_a_write_with_a_limit_changes_nothing_and_says_why(
    client: httpx.Client, method: str, limit: str
) -> None:
    body = {"location": "limited"} if method == "PATCH" else None
    answer = client.request(method, f"{SITES}?name=eq.limited&{limit}", json=body)
    assert answer.status_code == 400
    error = answer.json()
    assert error["code"] == "PGRST114"
    assert error["message"] == "limit and offset are not allowed for PATCH and DELETE"
    assert "id=in." in error["hint"]
    assert left(client) == ROWS
    assert left(client, location="limited") == 0


def test_72_a_limit_on_what_a_write_returns_is_no_limit_of_the_write(client: httpx.Client) -> None:
    target = f"{SITES}?name=eq.limited&select=id,escos(code)&escos.limit=1&order=id"
    answer = client.patch(target, json={"location": "all"}, headers=WRITTEN)
    assert (answer.status_code, len(answer.json())) == (200, ROWS), answer.text
    assert left(client, location="all") == ROWS


def test_most_affected_is_kept_or_refused_before_anything_is_written(
    either: Stack, client: httpx.Client
) -> None:
    for most, allowed in ((1, False), (ROWS, True)):
        headers = {"Prefer": f"handling=strict, max-affected={most}"}
        answer = client.patch(
            f"{SITES}?name=eq.limited", json={"location": f"most-{most}"}, headers=headers
        )
        if knows(either, 12, 2) and allowed:
            assert (answer.status_code, left(client, location=f"most-{most}")) == (204, ROWS)
            assert f"max-affected={most}" in answer.headers["preference-applied"]
            continue
        code = "PGRST124" if knows(either, 12, 2) else "PGRST122"
        assert (answer.status_code, answer.json()["code"]) == (400, code)
        named = "3 rows" if code == "PGRST124" else f"max-affected={most}"
        assert named in answer.json()["details"]
        assert left(client, location=f"most-{most}") == 0


def test_a_preference_passes_as_it_is_written_or_is_named(
    either: Stack, client: httpx.Client
) -> None:
    target = f"{SITES}?name=eq.limited&select=created_at&limit=1"
    # An offset is one of POSIX, west of Greenwich.
    for zone, offset, since in (("Asia/Kolkata", "+05:30", 12), ("05:00", "-05:00", 16)):
        answer = client.get(target, headers={"Prefer": f"handling=strict, timezone={zone}"})
        if knows(either, since):
            assert answer.json()[0]["created_at"].endswith(offset)
            assert f"timezone={zone}" in answer.headers["preference-applied"]
        else:
            assert (answer.status_code, answer.json()["code"]) == (400, "PGRST122")
            assert zone in answer.json()["details"]
    missing = client.get(target, headers={"Prefer": "handling=strict, missing=null"})
    assert missing.status_code == 200, missing.text
    for unknown in ("return=none", "max-affected=many", "count=all", "x"):
        answer = client.get(target, headers={"Prefer": f"handling=strict, {unknown}"})
        assert (answer.status_code, answer.json()["code"]) == (400, "PGRST122")
        assert answer.json()["details"] == f"Invalid preferences: {unknown}"
        lenient = {"Prefer": f"handling=lenient, {unknown}, handling=strict"}
        assert client.get(target, headers=lenient).status_code == 200


# Target, headers, and the codes of the versions from 12 on, and from 13 on where they differ.
ERRORS: list[tuple[str, dict[str, str], tuple[str, ...]]] = [
    ("nothing_here", {}, ("42P01", "PGRST205")),
    ("sites_new?nothing=eq.1", {}, ("42703",)),
    ("sites_new?select=nothing(x)", {}, ("PGRST200",)),
    ("rpc/nothing?x=1", {}, ("PGRST202",)),
    ("sites_new?name=x.y", {}, ("PGRST100",)),
    ("sites_new?id=eq.x", {}, ("22P02",)),
    ("sites_new?capacity_kw=like.1", {}, ("42883",)),
    ("sites_new?name=eq.none", {"Accept": "application/vnd.pgrst.object+json"}, ("PGRST116",)),
    ("sites_new?offset=100000", {"Prefer": "count=exact"}, ("PGRST103",)),
]


@pytest.mark.parametrize("case", ERRORS, ids=lambda case: case[0])
def test_an_error_names_its_code_and_no_inner_schema(
    either: Stack, client: httpx.Client, case: tuple[str, dict[str, str], tuple[str, ...]]
) -> None:
    target, headers, codes = case
    answer = client.get(f"/rest/v1/{target}", headers=headers)
    error = answer.json()
    assert error["code"] == codes[-1 if knows(either, 13) else 0]
    assert answer.headers["proxy-status"] == f"PostgREST; error={error['code']}"
    assert answer.headers["vary"].split(", ") >= ["Accept", "Prefer", "Range"]
    assert answer.headers.get_list("cache-control") == ["private, no-cache"]
    told = f"{error['message']} {error['details']}"
    assert not re.search(r"\bapi\b", told), told
    head = client.head(f"/rest/v1/{target}", headers=headers)
    assert (head.status_code, head.content) == (answer.status_code, b"")
    # 416 has a single code, so that the gateway can tell it on every version.
    if knows(either, 16) or head.status_code == 416:
        assert head.headers["proxy-status"] == answer.headers["proxy-status"]


@pytest.mark.parametrize(
    ("query", "hint"),
    [
        ("name=limited", "name=eq.limited"),
        ("select=id&name=eq.x&code=a.b", "code=eq.a.b"),
        ("select=id,escos(code)&escos.code=wlce", "escos.code=eq.wlce"),
        (f"name={'x' * 200}", f"name=eq.{'x' * 72}…"),
        ("name=eq.x&order=id.sideways", None),
        ("name=eq.x&select=id,,(", None),
    ],
)
def test_a_filter_without_operator_is_shown_with_one(
    client: httpx.Client, query: str, hint: str | None
) -> None:
    answer = client.get(f"{SITES}?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "PGRST100")
    told = f"A filter begins with its operator: {hint}" if hint else None
    assert answer.json()["hint"] == told


def test_what_repeats_the_request_or_is_fixed_is_said(client: httpx.Client) -> None:
    def error(target: str) -> dict[str, Any]:
        found: dict[str, Any] = client.get(f"/rest/v1/{target}").json()
        return found

    relation = error("sites_new?select=nothing(x)")
    assert "'sites_new' and 'nothing' in the schema 'flows'" in relation["details"]
    function = error("rpc/nothing?x=1")
    assert function["details"].startswith(
        "Searched for the function flows.nothing with parameter x"
    )
    assert "explicit type casts" in error("sites_new?capacity_kw=like.1")["hint"]
    for target in ("nothing_here", "sites_new?nothing=eq.1", "sites_new?select=nothing(x)",
                   "rpc/nothing?x=1"):  # fmt: skip
        assert error(target)["hint"].startswith("GET /openapi.json ")


# ── errors that no request can bring about at will: as PostgREST sends them ──


def sent(status: int, error: dict[str, Any] | None, **headers: str) -> UpstreamConnection:
    """Return a connection with this response of PostgREST."""

    class Answered:
        def __init__(self) -> None:
            self.status = status
            self.headers = [
                (name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()
            ]
            self._pieces = [json.dumps(error).encode()] if error else []

        async def read(self) -> bytes:
            return self._pieces.pop() if self._pieces else b""

    answered: Any = Answered()
    found: UpstreamConnection = answered
    return found


def failure(code: str, **members: Any) -> dict[str, Any]:
    """Return an error's body."""
    return {"code": code, "message": "m", "details": "told", "hint": "told"} | members


@pytest.mark.parametrize("code", ["40001", "40P01"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_collision_is_a_503_to_be_repeated_at_both_doors(code: str, method: str) -> None:
    answer = sent(500, failure(code) if method == "GET" else None,
                  proxy_status=f"PostgREST; error={code}")  # fmt: skip
    with pytest.raises(Unavailable) as refused:
        asyncio.run(cleaned_error(answer))
    own = from_database(psycopg.errors.lookup(code)("collided"))
    for problem in (refused.value, own):
        assert isinstance(problem, Problem)
        assert problem.status == 503
        assert int(problem.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("body", [failure("57014"), None])
def test_a_statement_timeout_is_a_504_at_both_doors(body: dict[str, Any] | None) -> None:
    answer = sent(500, body, proxy_status="PostgREST; error=57014")
    error = asyncio.run(cleaned_error(answer))
    assert (error.status, error.code) == (504, "57014")
    if body:
        assert "Ask for less" in json.loads(error.body)["hint"]
    assert isinstance(from_database(psycopg.errors.QueryCanceled("slow")), Timeout)


def test_a_long_error_keeps_its_code_wherever_it_stands() -> None:
    error = {"message": "x" * 100_000, "code": "22P02", "details": None, "hint": None}
    cleaned = asyncio.run(cleaned_error(sent(400, error, proxy_status="PostgREST; error=22P02")))
    assert json.loads(cleaned.body)["code"] == "22P02"
    assert len(cleaned.body) < 1000


@pytest.mark.parametrize("code", ["PGRST109", "PGRST110", "PGRST124", "PGRST201", "PGRST203"])
def test_details_of_the_request_alone_are_said(code: str) -> None:
    error = json.loads(asyncio.run(cleaned_error(sent(400, failure(code)))).body)
    assert (error["details"], error["hint"]) == ("told", "told")


@pytest.mark.parametrize("code", ["23505", "42501", "21000", "XX000"])
def test_details_that_may_name_others_are_not(code: str) -> None:
    error = json.loads(asyncio.run(cleaned_error(sent(400, failure(code)))).body)
    assert (error["details"], error["hint"]) == (None, None)


@pytest.mark.parametrize(
    ("code", "message", "told"),
    [
        ("42P01", 'relation "api.x" does not exist', 'relation "flows.x" does not exist'),
        (
            "PGRST203",
            "between: api.f(a => text), api.g()",
            "between: flows.f(a => text), flows.g()",
        ),
        ("42501", "permission denied for schema api", "permission denied for schema flows"),
        ("PGRST106", "The schema must be one of: flows", "The schema must be one of: flows"),
        ("22P02", 'invalid input syntax for type uuid: "api.x"', None),
        ("42703", "column x.my_api.y does not exist", None),
    ],
)
def test_the_inner_schema_is_called_flows(code: str, message: str, told: str | None) -> None:
    error = json.loads(asyncio.run(cleaned_error(sent(400, failure(code, message=message)))).body)
    assert error["message"] == (told or message)


def test_headers_of_16_and_safe_ones_of_sql_pass_and_no_others() -> None:
    answer = sent(
        200, None, warning='299 - "x"', content_disposition="attachment", vary="Accept",
        cache_control="public, max-age=60, s-maxage=9", set_cookie="a=b", x_other="1",
        location="/sites_new?id=eq.1", content_location="https://elsewhere.example/x",
        content_profile="api", server="postgrest",
    )  # fmt: skip
    assert dict(answer_headers(answer, b"/rest/v1")) == {
        b"warning": b'299 - "x"',
        b"content-disposition": b"attachment",
        b"cache-control": b"private, max-age=60",
        b"location": b"/rest/v1/sites_new?id=eq.1",
        b"content-location": b"https://elsewhere.example/x",
        b"content-profile": b"flows",
    }
    assert error_headers([], "a\r\nset-cookie: x") == []


@pytest.mark.parametrize("name", ["location", "content_location"])
def test_a_path_is_put_under_rest_and_a_url_of_elsewhere_is_not(name: str) -> None:
    header = name.replace("_", "-").encode()
    for sent_value, passed in (
        ("/sites_new?id=eq.1", b"/rest/v1/sites_new?id=eq.1"),
        ("https://elsewhere.example/x", b"https://elsewhere.example/x"),
        ("//elsewhere.example/x", b"//elsewhere.example/x"),
    ):
        assert answer_headers(sent(201, None, **{name: sent_value}), b"/rest/v1") == [
            (header, passed)
        ]


@pytest.fixture(scope="module")
def adorned(stack: Stack) -> Iterator[None]:
    """A function of schema api that sets headers, as an operator may add one."""
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as admin:
        admin.execute(
            "create function api.adorned() returns text language plpgsql stable as $$ begin"
            ' perform set_config(\'response.headers\', \'[{"Content-Disposition": "attachment"},'
            ' {"Cache-Control": "max-age=60"}, {"Set-Cookie": "a=b"}]\', true);'
            " return 'x'; end $$"
        )
        admin.execute("grant execute on function api.adorned() to public_backend")
        admin.execute("notify pgrst, 'reload schema'")
        yield
        admin.execute("drop function api.adorned()")
        admin.execute("notify pgrst, 'reload schema'")


@pytest.mark.usefixtures("adorned")
def test_headers_that_sql_sets_pass_if_they_are_safe(stack: Stack) -> None:
    with stack.client("wlce") as client:
        answer = wait_until(
            lambda: (a := client.get("/rest/v1/rpc/adorned")).status_code == 200 and a
        )
    assert answer.headers["content-disposition"] == "attachment"
    assert answer.headers.get_list("cache-control") == ["private, max-age=60"]
    assert "set-cookie" not in answer.headers
