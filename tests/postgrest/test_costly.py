"""Filters cost what their rows cost (SECURITY 54)."""

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
]  # fmt: skip
CHEAP = [
    b"notes=match.^MOVE-[0-9]{4}", b"name=ilike.*plot*", b"name=like(any).{*a*,*b*}",
    b"or=(id.eq.1,and(id.eq.2,name.like.a*))", b"name=eq.(a)*b", b"name=eq.rematch.(a)", b"",
    b"id=in.(" + b",".join([b"1"] * 400) + b")", b"select=id,name&order=name.asc",
    b"name=match.(one|two)",
]  # fmt: skip


@pytest.mark.parametrize("query", COSTLY)
def test_54_a_costly_filter_is_refused(query: bytes) -> None:
    with pytest.raises(CostlyFilterError):
        check_cost(query)


@pytest.mark.parametrize("query", CHEAP)
def test_54_other_filters_pass(query: bytes) -> None:
    check_cost(query)


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_54_the_door_refuses_them_for_every_verb(stack: Stack, method: str) -> None:
    with stack.client("wlce", "write") as client:
        target = "/rest/v1/circuit_register?notes=match.(a%2B)%2B%24"
        body = {"notes": "x"} if method == "PATCH" else None
        answer = client.request(method, target, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "FLOWS422")
