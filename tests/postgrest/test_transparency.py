"""Several hundred requests to PostgREST, directly and through the gateway, get equal responses."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest

from tests.conftest import Stack

COMPARED = (
    "allow", "content-length", "content-location", "content-profile", "content-range",
    "content-type", "etag", "location", "preference-applied", "www-authenticate",
)  # fmt: skip
SINGLE = "application/vnd.pgrst.object+json"
ARRAY = "application/vnd.pgrst.array+json"
STRIPPED = "application/vnd.pgrst.array+json;nulls=stripped"
SITE = "5fd0c0de-0000-4000-8000-0000000000"  # two digits are added


@dataclass(frozen=True)
class Case:
    """A request that is sent to PostgREST and to the gateway."""

    target: str
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None


# Intended differences: the gateway's changes of requests and of PostgREST's responses.
def the_profile_flows_is_api(headers: dict[str, str]) -> None:
    """Replace the schema `flows`, which existing clients request, by `api`."""
    for name in ("Accept-Profile", "Content-Profile"):
        if headers.get(name) == "flows":
            headers[name] = "api"


def addresses_lie_under_rest_v1(headers: dict[str, str]) -> None:
    """Put Location and Content-Location under /rest/v1."""
    for name in ("location", "content-location"):
        if name in headers:
            headers[name] = "/rest/v1" + headers[name]


def the_schema_is_called_flows(headers: dict[str, str]) -> None:
    """Replace the schema in the response by `flows`."""
    if "content-profile" in headers:
        headers["content-profile"] = "flows"


def every_405_says_what_is_allowed(status: int, headers: dict[str, str]) -> None:
    """Add the methods of a function, of which alone the cases ask another (RFC 9110 §15.5.6)."""
    if status == 405:
        headers["allow"] = "GET, HEAD, OPTIONS, POST"


def small_answers_have_a_length(headers: dict[str, str]) -> None:
    """Ignore Content-Length, which the gateway may send instead of a single chunk."""
    headers.pop("content-length", None)


def errors_tell_nothing_of_others(body: Any) -> Any:
    """Remove details and hints that name relations, columns, constraints or rows."""
    if isinstance(body, dict) and {"code", "details", "hint", "message"} == body.keys():
        code = body["code"]
        hint = HINT if code in UNKNOWN_NAMES else None
        if code.startswith(("23", "42")):
            body |= {"details": None, "hint": body["hint"] if code == "42883" else hint}
        elif code in ("PGRST200", "PGRST202", "PGRST204", "PGRST205"):
            body |= {"hint": hint}
        return {name: named_flows(value) for name, value in body.items()}
    return body


UNKNOWN_NAMES = ("42P01", "42703", "PGRST200", "PGRST202", "PGRST204", "PGRST205")
HINT = "GET /openapi.json with this token lists the names that it may use"


def named_flows(text: Any) -> Any:
    """Name the schema of the relations as clients do."""
    if not isinstance(text, str):
        return text
    for inner in ("'api", '"api', "function api", "between: api"):
        text = text.replace(f"{inner}.", f"{inner[:-3]}flows.")
    return text.replace("schema 'api'", "schema 'flows'").replace(
        " exposed: api", " exposed: flows"
    )


def operators(kind: str, value: str) -> Iterator[str]:
    """Yield filters for a column of this type, given one of its values."""
    yield from (f"eq.{value}", f"neq.{value}", f"in.({value})", f"not.eq.{value}", "is.null")
    yield from ("not.is.null", f"isdistinct.{value}")
    if kind in ("text", "numeric", "timestamp with time zone", "integer", "uuid"):
        yield from (f"gt.{value}", f"gte.{value}", f"lt.{value}", f"lte.{value}")
    if kind == "text":
        yield from ("like.*e*", "ilike.*E*", "match.^W", "imatch.^w", "like(any).{*a*,*e*}")
        yield from ("fts.energy", "wfts(english).energy", "plfts.roof", "phfts.roof")
        yield from (f'in.("{value}","a,b")', "eq.", "not.like.*e*")
    if kind == "boolean":
        yield from ("is.true", "is.false", "is.unknown")
    yield "eq.not-a-value"  # an error for all types but text
    yield "nonsense.1"


FILTERED = {
    "meter_registry": {
        "id": "uuid", "serial": "text", "name": "text", "mode": "text", "prepay_enabled": "boolean",
        "emnify_id": "integer", "created_at": "timestamp with time zone",
    },
    "sites_new": {"esco": "uuid", "name": "text", "capacity_kw": "numeric"},
    "meter_registers": {"element": "text", "nature": "text", "direction_reversed": "boolean"},
    "service_head_registry": {"phase": "integer"},
    "register_interval_hh": {"register_id": "uuid", "import_kwh": "numeric"},
    "circuit_interval_daily": {"total_import_kwh": "numeric"},
}  # fmt: skip
KEYS = {
    "register_interval_hh": "timestamp,register_id", "circuit_interval_daily": "day,circuit_id",
}  # fmt: skip
SAMPLES = {
    "uuid": "5fd0c0de-0000-4000-8000-000000000000", "text": "WLCE0001", "boolean": "true",
    "numeric": "1.5", "integer": "2", "timestamp with time zone": "2026-01-01T00:00:00Z",
}  # fmt: skip


def filters() -> Iterator[Case]:
    """Yield requests with every operator on a column of every type."""
    for relation, columns in FILTERED.items():
        order = "&order=timestamp,register_id" if relation == "register_interval_hh" else ""
        order = order or (
            "&order=day,circuit_id" if "interval" in relation else "&order=created_at"
        )
        for column, kind in columns.items():
            for operator in operators(kind, SAMPLES[kind]):
                yield Case(f"/{relation}?{column}={operator}&limit=5&order={order}")
    for logic in (
        "or=(serial.eq.WLCE0001,name.eq.x)", "and=(serial.gt.A,serial.lt.Z)",
        "not.or=(serial.eq.a,serial.eq.b)", "or=(serial.eq.a,and(name.eq.b,mode.eq.active))",
        "or=(serial.not.eq.a)", "or=()", "and=(serial", "serial=eq.a&serial=eq.b",
    ):  # fmt: skip
        yield Case(f"/meter_registry?{logic}&order=serial&limit=4")


def shapes() -> Iterator[Case]:
    """Yield requests for columns, order, pages, embedding, spreads, media types, counts, ranges."""
    selects = [
        "*", "serial", "serial,name", "number:serial", "serial::text", "id::text,created_at::date",
        "nope", "serial,,name", "", "*,meter_registers(*)", "serial,meter_registers(element)",
        "serial,meter_registers!inner(element)", "serial,registers:meter_registers(element)",
        "serial,meter_registers!left(element)&meter_registers.element=eq.A",
        "serial,meter_registers!inner(element)&meter_registers.element=eq.A",
        "serial,meter_registers(element)&meter_registers.order=element.desc",
        "serial,meter_registers(element)&meter_registers.limit=1",
        "serial,escos(code)", "serial,...escos(code)", "serial,...escos(esco_code:code)",
        "serial,escos(code,regions(name))", "serial,nothing(x)", "serial,meter_shadows(balance)",
        "serial,service_head_registry(name,properties(plot))", "serial,meter_registers(count)",
        "serial,meter_registers(circuit_register(circuits(name)))", "count()",
    ]  # fmt: skip
    for select in selects:
        yield Case(f"/meter_registry?order=serial&limit=3&select={select}")
    for order in ("serial", "serial.desc", "name.asc.nullslast,serial",
                  "hardware.nullsfirst,serial", "nope", "serial.sideways",
                  "escos(code).desc,serial"):  # fmt: skip
        yield Case(f"/meter_registry?select=serial,escos(code)&order={order}")
    for limit, offset in itertools.product(("0", "1", "5", "-1", "x"), ("0", "2", "999", "x")):
        yield Case(f"/meter_registry?select=serial&order=serial&limit={limit}&offset={offset}")
    for count, page, method in itertools.product(
        ("count=exact", "count=none", ""),
        ("0-1", "2-", "5-4", "900-999", "x-y", "-3", ""),
        ("GET", "HEAD"),
    ):
        headers = {"Prefer": count} if count else {}
        headers |= {"Range": page, "Range-Unit": "items"} if page else {}
        yield Case("/meter_registry?select=serial&order=serial", method, headers)
    for accept in (
        "application/json", "text/csv", SINGLE, f"{SINGLE};nulls=stripped", ARRAY, STRIPPED, "*/*",
        "text/html", "application/geo+json", "text/csv, application/json;q=0.5", "text/plain",
        "application/octet-stream", "application/vnd.pgrst.object", "nonsense",
    ):  # fmt: skip
        for target in ("/sites_new?select=code,location", "/meter_registry?serial=eq.none",
                       "/meter_registry?select=serial&order=serial",
                       "/rpc/current_esco?select=code"):  # fmt: skip
            yield Case(target, headers={"Accept": accept})
    for prefer in ("count=exact, return=minimal", "handling=strict", "handling=lenient, anything",
                   "handling=strict, anything", "timezone=Europe/London", "timezone=Nowhere/Land",
                   "handling=strict, timezone=Nowhere/Land", "return=nonsense"):  # fmt: skip
        yield Case("/meter_registry?select=serial,created_at&order=serial&limit=1",
                   headers={"Prefer": prefer})  # fmt: skip
    for relation in ("escos", "nothing_here", "meter_registry", "circuit_interval_daily"):
        yield Case(f"/{relation}", "OPTIONS")
        yield Case(f"/{relation}?limit=1&select=created_at", "HEAD")
    for profile in ("api", "flows"):
        yield Case("/escos?select=code", headers={"Accept-Profile": profile})
    yield Case("/escos", headers={"If-None-Match": '"x"'})
    yield Case("/meter%5Fregistry?select=serial&limit=1&order=serial")


def calls() -> Iterator[Case]:
    """Yield calls of functions by GET, POST and HEAD."""
    for method in ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"):
        yield Case(
            "/rpc/current_esco?select=code,name", method, body={} if method == "POST" else None
        )
    yield Case("/rpc/current_esco", "POST", body={"nope": 1})
    yield Case("/rpc/current_esco?nope=1")
    yield Case("/rpc/set_config", "POST", body={})
    yield Case("/rpc/nothing")
    yield Case("/rpc/current_esco?select=code", "POST", {"Accept": SINGLE}, {})
    yield Case("/rpc/current_esco?select=code", "POST", {"Prefer": "count=exact"}, {})
    yield Case(
        "/rpc/current_esco?code=eq.wlce&select=code", "POST", {"Prefer": "return=minimal"}, {}
    )


def writes(esco: str, foreign: str) -> Iterator[Case]:
    """Yield inserts, upserts, updates, deletes; all their rows are named `alike`."""

    def row(number: int, **columns: Any) -> dict[str, Any]:
        return {"id": f"{SITE}{number:02}", "esco": esco, "name": "alike"} | columns

    shown = "?select=id,name,code"
    for returned in ("minimal", "headers-only", "representation", ""):
        prefer = {"Prefer": f"return={returned}"} if returned else {}
        yield Case(f"/sites_new{shown}", "POST", prefer, row(1))
        yield Case(f"/sites_new{shown}", "POST", prefer, [row(1), row(2)])
        yield Case(f"/sites_new{shown}&id=eq.{SITE}00", "PATCH", prefer, {"location": "here"})
        yield Case(f"/sites_new{shown}&id=eq.{SITE}99", "PATCH", prefer, {"location": "here"})
        yield Case(f"/sites_new{shown}&id=eq.{SITE}00", "DELETE", prefer)
        yield Case(f"/sites_new{shown}&id=eq.{SITE}00", "PUT", prefer, row(0))
        for resolution in ("merge-duplicates", "ignore-duplicates"):
            both = ", ".join([f"resolution={resolution}", *prefer.values()])
            yield Case(f"/sites_new{shown}", "POST", {"Prefer": both}, [row(0), row(3)])
            yield Case(f"/sites_new{shown}&on_conflict=code", "POST", {"Prefer": both},
                       [row(0, code="alike")])  # fmt: skip
    one = {"Prefer": "return=representation", "Accept": SINGLE}
    for headers in (
        one,
        one | {"Accept": "text/csv"},
        {"Prefer": "return=representation,count=exact"},
    ):
        yield Case(f"/sites_new{shown}", "POST", headers, row(4))
        yield Case(f"/sites_new{shown}", "POST", headers, [row(5), row(6)])
        yield Case(f"/sites_new{shown}&id=eq.{SITE}00", "PATCH", headers, {"name": "alike"})
        yield Case(f"/sites_new{shown}&id=eq.{SITE}98", "DELETE", headers)
    missing = {"Prefer": "missing=default, return=representation"}
    yield Case("/sites_new?columns=id,esco,name&select=name", "POST", missing, [row(7, extra=1)])
    csv = f"id,esco,name\n{SITE}08,{esco},alike\n{SITE}09,{esco},alike\n"
    yield Case(f"/sites_new{shown}", "POST", {"Content-Type": "text/csv",
               "Prefer": "return=representation"}, csv)  # fmt: skip
    form = f"id={SITE}10&esco={esco}&name=alike"
    yield Case(f"/sites_new{shown}", "POST", {"Content-Type": "application/x-www-form-urlencoded",
               "Prefer": "return=representation"}, form)  # fmt: skip
    yield Case("/sites_new", "POST", {"Content-Profile": "flows"}, row(11))
    for wrong in (row(0), row(1, esco=foreign), row(1, esco=None), row(1, nope=1), row(1, id="x"),
                  row(1, capacity_kw=-1), [row(1), {"name": "alike"}], row(1, esco=f"{SITE}00"),
                  "{not json", "", [], {}, 1, row(1, capacity_kw="1e999999")):  # fmt: skip
        yield Case("/sites_new", "POST", {"Content-Type": "application/json"}, wrong)
    yield Case("/escos", "POST", body={"code": "no", "name": "no"})
    yield Case("/escos", "DELETE")
    yield Case("/sites_new?id=eq.x", "PATCH", body={"name": "alike"})
    yield Case(f"/sites_new?id=eq.{SITE}00", "PATCH", body={})
    yield Case(f"/sites_new?id=eq.{SITE}01", "PUT", body=row(0))


def send(client: httpx.Client, base: str, case: Case) -> httpx.Response:
    """Send a case to PostgREST or the gateway."""
    body = case.body
    headers = dict(case.headers)
    if body is not None and not isinstance(body, str):
        body = json.dumps(body)
        headers.setdefault("Content-Type", "application/json")
    return client.request(case.method, base + case.target, headers=headers, content=body)


def seen(answer: httpx.Response) -> tuple[int, dict[str, str], Any]:
    """Return the status, the headers that clients read, and the body."""
    headers = {name: answer.headers[name] for name in COMPARED if name in answer.headers}
    small_answers_have_a_length(headers)
    try:
        body = json.loads(answer.content, parse_float=str)
    except ValueError:
        body = answer.text
    if isinstance(body, dict) and body.get("code") == "PGRST100":
        body["hint"] = None  # the gateway's own advice: test_versions.py
    return answer.status_code, headers, body


def intended(answer: httpx.Response) -> tuple[int, dict[str, str], Any]:
    """Return the response that the gateway should make from PostgREST's."""
    status, headers, body = seen(answer)
    addresses_lie_under_rest_v1(headers)
    the_schema_is_called_flows(headers)
    every_405_says_what_is_allowed(status, headers)
    return status, headers, errors_tell_nothing_of_others(body)


def differences(stack: Stack, cases: list[Case], before_each: Any = None) -> list[str]:
    """Send each case to PostgREST and the gateway; return those with different responses."""
    found = []
    with stack.client("wlce", "write") as client:
        for case in cases:
            pair = []
            direct = replace(case, headers=dict(case.headers))
            the_profile_flows_is_api(direct.headers)
            for door, sent, look in (
                ("postgrest_url", direct, intended),
                ("rest_url", case, seen),
            ):
                if before_each:
                    before_each(client)
                pair.append(look(send(client, stack.contract[door], sent)))
            if pair[0] != pair[1]:
                found.append(f"{case}\n  PostgREST {pair[0]}\n  gateway   {pair[1]}")
    return found


def test_reads_are_answered_alike(either: Stack) -> None:
    cases = [*filters(), *shapes(), *calls()]
    assert len(cases) >= 400
    found = differences(either, cases)
    assert not found, "\n".join([f"{len(found)} of {len(cases)} differ", *found])


def test_writes_are_answered_alike(either: Stack) -> None:
    escos = either.contract["escos"]
    esco = escos["wlce"]["id"]
    base = either.contract["postgrest_url"]

    def start_over(client: httpx.Client) -> None:
        client.delete(f"{base}/sites_new?name=eq.alike").raise_for_status()
        row = {"id": f"{SITE}00", "esco": esco, "name": "alike", "code": "alike"}
        client.post(f"{base}/sites_new", json=row).raise_for_status()

    cases = list(writes(esco, escos["hmce"]["id"]))
    assert len(cases) >= 69
    found = differences(either, cases, start_over)
    with either.client("wlce", "write") as client:
        client.delete(f"{base}/sites_new?name=eq.alike").raise_for_status()
    assert not found, "\n".join([f"{len(found)} of {len(cases)} differ", *found])


@pytest.mark.parametrize("case", [Case("/", "GET"), Case("/", "HEAD")])
def test_the_root_describes_the_schema(either: Stack, case: Case) -> None:
    assert not differences(either, [case])
