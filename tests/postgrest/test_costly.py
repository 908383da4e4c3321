"""Queries cost what their rows cost (SECURITY 54)."""

import time
from contextlib import suppress

import pytest

from app.errors import CostlyFilterError
from app.postgrest.costly import check_cost
from tests.conftest import Stack

COSTLY = [
    b"notes=match.(a%2B)%2B%24", b"notes=imatch.(a|b)*c", b"notes=not.match.(x){9}",
    b"notes=match.(a)\\1", b"notes=match.a{5000}", b"notes=match." + b"a" * 201,
    b"notes=m%61tch.(a)*", b"notes=match(any).{\"(a)*\",b}", b"or=(id.eq.1,notes.match.(a)*)",
    b"and=(notes.ilike.*a*b*c*d*e*f*g*h*,id.eq.1)",
    b"notes=like.%25a%25b%25c%25d%25e%25f%25g%25h%25",
    b"or=" + b"(and" * 9 + b"(id.eq.1,id.eq.2)" + b")" * 9,
    b"or=(" + b",".join([b"notes.like.*a*"] * 21) + b")",
    b"select=*,circuits(*)&circuits.or=" + b"(and" * 9 + b"(id.eq.1)" + b")" * 9,
    b"select=*,escos(*,meter_registry(*))", b"select=escos(a:meter_registry!fk(id))",
    b"select=...escos(%22meter_registry%22!inner(id))", b"select=escos%28meter_registry%28id%29%29",
    b"select=escos(id,sites_new(id,escos(code)))", b"select=meter_registry(id)",
    b"select=" + b",".join([b"a%d:meter_csq(csq)" % n for n in range(31)]),
    b"select=%22,%22,escos(id,%22(%22,meter_registry(id))",
    b"select=" + b",".join([b"a%d" % n for n in range(301)]), b"select=" + b"%2C" * 300,
    b"select=name,name,name,name", b"select=a:name,name,b:name,c:name->x",
    b"select=" + b",".join([b"a%d:escos(id)" % n for n in range(4)]),
    b"select=escos(a:name,b:name,c:name::text,name)", b"select=*,*,*,*",
    b"select=notes::numeric", b"select=notes::+JSONB", b"select=a:notes%3A%3A_numeric",
    b"select=id,escos(name::jsonpath)", b"select=notes->>a::numrange",
    b"select=notes::text::numeric", b"select=escos(%09meter_registry(id))",
]  # fmt: skip
CHEAP = [
    b"notes=match.^MOVE-[0-9]{4}", b"name=ilike.*plot*", b"name=like(any).{*a*,*b*}",
    b"or=(id.eq.1,and(id.eq.2,name.like.a*))", b"name=eq.(a)*b", b"name=eq.rematch.(a)", b"",
    b"id=in.(" + b",".join([b"1"] * 400) + b")", b"select=id,name&order=name.asc",
    b"name=match.(one|two)", b"select=*,escos(*),meter_registers(*,circuits(*,sites_new(*)))",
    b"select=a:meter_csq(csq),b:meter_csq(csq)&meter_csq.limit=1", b"select=id)),escos((",
    b"select=count(),escos(count())", b"select=" + b",".join([b"c%d" % n for n in range(300)]),
    b"select=id,name,escos(id,name),a:sites_new(id,name),b:sites_new(id,name),name",
    b"select=name,a:name,b:name->x",
    b"select=%22meter_registry(%22", b"select=fuse_rating::text,a:start_time::date",
    b"select=notes->>x::float8,esco::text", b"select=meter_csq:meter_csq(csq)&meter_csq.limit=1",
]  # fmt: skip


@pytest.mark.parametrize("query", COSTLY)
def test_54_a_costly_filter_is_refused(query: bytes) -> None:
    with pytest.raises(CostlyFilterError):
        check_cost(query, "meter_registry")


@pytest.mark.parametrize("query", CHEAP)
def test_54_other_filters_pass(query: bytes) -> None:
    check_cost(query, "meter_registry")


@pytest.mark.parametrize(
    "piece", [b"(", b'"', b"a(", b"a,", b"like.,a.", b"match.(", b"%22", b"a:!(", b"and(", b"or=(a"]
)
def test_54_what_it_costs_itself_grows_with_the_length_alone(piece: bytes) -> None:
    """Of the longest target, for each of its parameters."""
    query = b"select=" + piece * (16_384 // len(piece))
    started = time.thread_time()
    for name in (b"select", b"or", b"notes"):
        with suppress(CostlyFilterError):
            check_cost(query.replace(b"select", name), "meter_registry")
    assert time.thread_time() - started < 0.2


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_54_the_door_refuses_them_for_every_verb(stack: Stack, method: str) -> None:
    with stack.client("wlce", "write") as client:
        target = "/rest/v1/circuit_register?notes=match.(a%2B)%2B%24"
        body = {"notes": "x"} if method == "PATCH" else None
        answer = client.request(method, target, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "FLOWS422")
