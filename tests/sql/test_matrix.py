"""Isolation as a matrix generated from the catalogue: relation × verb × tenant × role."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.conftest import Stack
from tests.sql.test_isolation import SHARED, become, exposed

Admin = psycopg.Connection[Any]
ONE_DAY = "where \"timestamp\" between now() - interval '31 days' and now() - interval '30 days'"
LONG = {"register_interval_hh", "circuit_interval_hh"}
TENANT_ROLES = ("flows", "public_backend")
# A view's check option is tested after the key: a caller who uses the key of another's row learns
# that the key is taken, but nothing is written.
REFUSED = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.WithCheckOptionViolation,
    psycopg.errors.UniqueViolation,
)


@dataclass(frozen=True)
class Relation:
    """A relation of schema api, with the key of its base table (none for read-only views)."""

    name: str
    columns: list[str]
    key: list[str]

    @property
    def identifier(self) -> sql.Identifier:
        """The relation as a SQL identifier."""
        return sql.Identifier("api", self.name)

    @property
    def sample(self) -> sql.SQL:
        """The WHERE clause that limits long series, to keep the test short."""
        return sql.SQL(ONE_DAY if self.name in LONG else "")

    @property
    def columns_sql(self) -> sql.Composed:
        """All columns, separated by commas."""
        return sql.SQL(", ").join(map(sql.Identifier, self.columns))


def relations(admin: Admin) -> Iterator[Relation]:
    """Yield all exposed relations."""
    for name in exposed(admin):
        columns = admin.execute(
            "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0"
            " and not attisdropped order by attnum",
            (f"api.{name}",),
        ).fetchall()
        key = admin.execute(
            "select a.attname from pg_index as i"
            " join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)"
            " where i.indrelid = to_regclass(%s) and i.indisprimary",
            (f"flows.{name}",),
        ).fetchall()
        yield Relation(name, [row[0] for row in columns], [row[0] for row in key])


def may(admin: Admin, role: str, relation: Relation, verb: str) -> bool:
    """Return whether a role is granted a verb at all."""
    row = admin.execute(
        "select has_table_privilege(%s, %s, %s)", (role, f"api.{relation.name}", verb)
    ).fetchone()
    assert row
    return bool(row[0])


def rows(admin: Admin, relation: Relation) -> dict[str, dict[str, Any]]:
    """Return the rows that the current role sees, as text → row; one day of a long series.

    The day is a month old, so that on TimescaleDB it may be in the columnstore.
    """
    query = sql.SQL("select t::text, to_jsonb(t) from {} as t {}")
    return dict(admin.execute(query.format(relation.identifier, relation.sample)).fetchall())


def rolled_back(admin: Admin, statement: sql.Composed, *args: object) -> int | None:
    """Run a statement and roll it back; return the number of rows, or None if it was refused."""
    try:
        with admin.transaction(force_rollback=True):
            return admin.execute(statement, args).rowcount
    except REFUSED:
        return None


def insert(relation: Relation, *, upsert: bool) -> sql.Composed:
    """Return the INSERT of a JSON row as PostgREST writes it, with ON CONFLICT for an upsert."""
    statement = sql.SQL(
        "insert into {relation} ({columns}) select {columns}"
        " from jsonb_populate_record(null::{relation}, %s)"
    ).format(relation=relation.identifier, columns=relation.columns_sql)
    if not upsert:
        return statement
    return statement + sql.SQL(" on conflict ({}) do update set {}").format(
        sql.SQL(", ").join(map(sql.Identifier, relation.key)),
        sql.SQL(", ").join(
            sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in relation.columns
        ),
    )


def test_every_row_belongs_to_exactly_one_esco(stack: Stack, admin: Admin) -> None:
    escos = stack.contract["escos"]
    for relation in relations(admin):
        if relation.name in SHARED:
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
    for relation in relations(admin):
        become(admin, "flows", own)
        mine = set(rows(admin, relation))
        for role in TENANT_ROLES:
            for esco in (other, None, "00000000-0000-0000-0000-000000000000"):
                become(admin, role, esco)
                seen = set(rows(admin, relation))
                assert relation.name in SHARED or not mine & seen, (relation.name, role, esco)
                if esco != other:
                    assert relation.name in SHARED or not seen, (relation.name, role, esco)


@pytest.mark.parametrize("role", ["flows", "public_backend", "grafanareader"])
@pytest.mark.parametrize("verb", ["insert", "upsert", "update", "delete"])
def test_nothing_of_another_esco_is_written(
    stack: Stack, admin: Admin, role: str, verb: str
) -> None:
    own = stack.contract["escos"]["wlce"]["id"]
    other = stack.contract["escos"]["hmce"]["id"]
    tried = 0
    for relation in relations(admin):
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
                if relation.name not in SHARED:
                    statement = insert(relation, upsert=verb == "upsert")
                    assert rolled_back(admin, statement, json.dumps(row)) is None, where
                    tried += 1
                continue
            column = sql.Identifier((relation.key or relation.columns)[0])
            statement = (
                sql.SQL("delete from {} {}").format(relation.identifier, relation.sample)
                if verb == "delete"
                else sql.SQL("update {0} set {1} = {1} {2}").format(
                    relation.identifier, column, relation.sample
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
    for relation in relations(admin):
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
        assert rolled_back(admin, insert(relation, upsert=True), row) == 1, relation.name
        written += 1
    assert written >= 15
