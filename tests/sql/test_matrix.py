"""Isolation as a matrix generated from the catalogue: relation × verb × tenant × role."""

import json
from typing import Any

import psycopg
import pytest
from psycopg import sql

from app.db.isolation import (
    CALLER_ROLES,
    SHARED_RELATIONS,
    ExposedRelation,
    become,
    exposed_relations,
    insertion,
    may,
    rolled_back,
)
from tests.conftest import Stack

Admin = psycopg.Connection[Any]
ONE_DAY = "where \"timestamp\" between now() - interval '31 days' and now() - interval '30 days'"
LONG = {"register_interval_hh", "circuit_interval_hh"}


def sample(relation: ExposedRelation) -> sql.SQL:
    """Return the WHERE clause that limits long series, to keep the test short."""
    return sql.SQL(ONE_DAY if relation.name in LONG else "")


def rows(admin: Admin, relation: ExposedRelation) -> dict[str, dict[str, Any]]:
    """Return the rows that the current role sees, as text → row; one day of a long series.

    The day is a month old, so that on TimescaleDB it may be in the columnstore.
    """
    query = sql.SQL("select t::text, to_jsonb(t) from {} as t {}")
    return dict(admin.execute(query.format(relation.identifier, sample(relation))).fetchall())


def test_every_row_belongs_to_exactly_one_esco(stack: Stack, admin: Admin) -> None:
    escos = stack.contract["escos"]
    for relation in exposed_relations(admin):
        if relation.name in SHARED_RELATIONS:
            continue
        shown: list[set[str]] = []
        for esco in escos.values():
            become(admin, "flows", esco["id"])
            shown.append(set(rows(admin, relation)))
        become(admin, "grafanareader", None)
        everything = set(rows(admin, relation))
        assert sum(map(len, shown)) == len(set().union(*shown)), relation.name
        if relation.key and relation.name not in ("escos",):
            assert set().union(*shown) == everything, relation.name


def test_other_escos_and_no_esco_read_nothing(stack: Stack, admin: Admin) -> None:
    own = stack.contract["escos"]["wlce"]["id"]
    other = stack.contract["escos"]["hmce"]["id"]
    for relation in exposed_relations(admin):
        become(admin, "flows", own)
        mine = set(rows(admin, relation))
        for role in CALLER_ROLES:
            for esco in (other, None, "00000000-0000-0000-0000-000000000000"):
                become(admin, role, esco)
                seen = set(rows(admin, relation))
                assert relation.name in SHARED_RELATIONS or not mine & seen, (
                    relation.name,
                    role,
                    esco,
                )
                if esco != other:
                    assert relation.name in SHARED_RELATIONS or not seen, (
                        relation.name,
                        role,
                        esco,
                    )


@pytest.mark.parametrize("role", ["flows", "public_backend", "grafanareader"])
@pytest.mark.parametrize("verb", ["insert", "upsert", "update", "delete"])
def test_nothing_of_another_esco_is_written(
    stack: Stack, admin: Admin, role: str, verb: str
) -> None:
    own = stack.contract["escos"]["wlce"]["id"]
    other = stack.contract["escos"]["hmce"]["id"]
    tried = 0
    for relation in exposed_relations(admin):
        become(admin, "flows", other)
        foreign = rows(admin, relation)
        become(admin, "flows", own)
        mine = rows(admin, relation)
        granted = may(admin, role, relation, "insert" if verb == "upsert" else verb)
        if granted:
            # Only the role of tenants' writers may write anything.
            assert role == "flows", relation.name
        for esco in (own, None):
            become(admin, role, esco)
            where = (relation.name, role, esco, verb)
            if verb in ("insert", "upsert"):
                if not relation.key:
                    continue
                row = next(iter(foreign.values()), None) or next(iter(mine.values()))
                if relation.name not in SHARED_RELATIONS:
                    statement = insertion(relation, upsert=verb == "upsert")
                    assert rolled_back(admin, statement, json.dumps(row)) is None, where
                    tried += 1
                continue
            column = sql.Identifier((relation.key or relation.columns)[0])
            statement = (
                sql.SQL("delete from {} {}").format(relation.identifier, sample(relation))
                if verb == "delete"
                else sql.SQL("update {0} set {1} = {1} {2}").format(
                    relation.identifier, column, sample(relation)
                )
            )
            try:
                touched = rolled_back(admin, statement)
            except psycopg.errors.ForeignKeyViolation:
                touched = len(mine)  # other rows of the same ESCO reference this one
            except psycopg.errors.ObjectNotInPrerequisiteState:
                touched = None  # the view cannot be written at all
            tried += 1
            if not granted:
                assert touched is None, where
            elif esco == own:
                assert touched == len(mine), where
            else:
                assert touched == 0, where
    assert tried > 30


def test_own_rows_can_be_written(stack: Stack, admin: Admin) -> None:
    """Writes to own rows succeed, so the refusals above are because the rows are another's."""
    own = stack.contract["escos"]["wlce"]["id"]
    written = 0
    for relation in exposed_relations(admin):
        become(admin, "flows", own)
        mine = rows(admin, relation)
        if (
            not relation.key
            or not may(admin, "flows", relation, "insert")
            or not may(admin, "flows", relation, "update")
            or relation.name
            in ("service_head_meter", "properties_service_head")  # no UPDATE policy
        ):
            continue
        row = json.dumps(next(iter(mine.values())))
        assert rolled_back(admin, insertion(relation, upsert=True), row) == 1, relation.name
        written += 1
    assert written >= 15
