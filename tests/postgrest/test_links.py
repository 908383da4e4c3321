"""No ESCO links its rows to another's, by any table and verb, and hears nothing (SECURITY 60)."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from tests.conftest import Stack

# Every column of api whose value is the id of a row with an owner.
LINKS = """
    select t.relname, a.attname, parent.relname, key.attname
    from pg_constraint as k
    join pg_class as t on k.conrelid = t.oid join pg_class as parent on k.confrelid = parent.oid
    join pg_attribute as a on a.attrelid = t.oid and a.attnum = k.conkey[1]
    join pg_attribute as key on key.attrelid = parent.oid and key.attnum = k.confkey[1]
    where k.contype = 'f' and t.relnamespace = 'flows'::regnamespace and not t.relispartition
        and cardinality(k.conkey) = 1 and a.atttypid = 'uuid'::regtype
        and to_regclass('api.' || quote_ident(t.relname)) is not null
        and has_table_privilege('flows', 'api.' || quote_ident(t.relname), 'insert')
        and exists (
            select from pg_attribute as owner
            where owner.attrelid = parent.oid and owner.attname = 'esco'
        )
    union select 'meter_registry', 'site', 'sites_new', 'id'
"""
WRITES = ("insert", "merge", "ignore", "patch")


@pytest.fixture(scope="module")
def links(stack: Stack) -> list[tuple[str, str, str, str]]:
    """Table, column, parent and its key of each link."""
    with psycopg.connect(stack.contract["database_url"]) as admin:
        return admin.execute(LINKS.encode()).fetchall()


@pytest.fixture(scope="module")
def clients(stack: Stack) -> Iterator[dict[str, httpx.Client]]:
    """Three ESCOs; wlce tries, hmce and bfce are its victims."""
    with (
        stack.client("wlce", "write") as one, stack.client("hmce") as two,
        stack.client("bfce") as three,
    ):  # fmt: skip
        yield {"wlce": one, "hmce": two, "bfce": three}


def first(client: httpx.Client, relation: str) -> dict[str, Any] | None:
    """Return a row of a relation, or None."""
    rows = client.get(f"/rest/v1/{relation}?limit=1").json()
    return rows[0] if rows else None


def heard(answer: httpx.Response) -> tuple[int, str]:
    """Return all that a caller hears."""
    return answer.status_code, answer.text


def test_60_there_are_links_to_try(links: list[tuple[str, str, str, str]]) -> None:
    tried = {(table, column) for table, column, _, _ in links}
    assert {
        ("circuit_register", "circuit"), ("circuit_register", "register"),
        ("service_head_meter", "meter"), ("service_head_meter", "service_head"),
        ("properties_service_head", "property"), ("properties_service_head", "service_head"),
        ("meter_registry", "site"), ("register_interval_hh", "register_id"),
    } <= tried  # fmt: skip
    assert len(tried) >= 18


@pytest.mark.parametrize("how", WRITES)
def test_60_a_link_to_another_escos_row_is_one_to_nothing(
    clients: dict[str, httpx.Client], links: list[tuple[str, str, str, str]], how: str
) -> None:
    """Each link of each table, to two other ESCOs' rows and to none."""
    mine, tried = clients["wlce"], 0
    for table, column, parent, key in links:
        own = first(mine, table)
        if own is None:
            continue
        targets = {"nothing": str(uuid4())}
        for victim in ("hmce", "bfce"):
            if there := first(clients[victim], parent):
                targets[victim] = there[key]
        if len(targets) < 3:
            continue
        answers = {}
        for whose, target in targets.items():
            # A row of one's own in every other respect.
            row = own | {column: target}
            if how == "patch":
                named = {"circuit_register", "service_head_meter", "properties_service_head"}
                by = {column} if table in named else {next(iter(own))}
                filters = {name: f"eq.{own[name]}" for name in by}
                answer = mine.patch(f"/rest/v1/{table}", params=filters, json={column: target})
            else:
                prefer = {"insert": "", "merge": "resolution=merge-duplicates",
                          "ignore": "resolution=ignore-duplicates"}[how]  # fmt: skip
                row.pop("updated_at", None)
                answer = mine.post(f"/rest/v1/{table}", json=row, headers={"Prefer": prefer})
            status, text = heard(answer)
            if how == "ignore" and status == 201:
                # A row that is there was ignored before its link was looked at.
                at = {next(iter(own)): f"eq.{own[next(iter(own))]}"}
                assert mine.get(f"/rest/v1/{table}", params=at).json()[0][column] == own[column]
            else:
                assert 400 <= status < 500, (table, column, whose, how, text)
            answers[whose] = (status, text.replace(str(target), "…"))
        assert len(set(answers.values())) == 1, (table, column, how, answers)
        tried += 1
    assert tried >= 12


def test_60_nothing_of_two_escos_is_shared(stack: Stack) -> None:
    """Every row that links two has one owner with both, whoever loaded it."""
    with psycopg.connect(stack.contract["database_url"]) as admin:
        for table, one, its, other, theirs in (
            ("service_head_meter", "meter", "meter_registry", "service_head",
             "service_head_registry"),
            ("properties_service_head", "property", "properties", "service_head",
             "service_head_registry"),
        ):  # fmt: skip
            shared = admin.execute(
                f"select count(*) from flows.{table} as l join flows.{its} as a on a.id = l.{one}"
                f" join flows.{theirs} as b on b.id = l.{other}"
                " where a.esco is distinct from b.esco or l.esco is distinct from a.esco".encode()
            ).fetchone()
            assert shared == (0,), table
