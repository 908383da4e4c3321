"""Facts of the database catalogue that PostgREST's Swagger lacks, from `gateway.describe_api()`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ColumnFacts:
    """A column of an exposed relation, with the properties it has in its base table."""

    type: str
    not_null: bool
    has_default: bool
    insert: bool
    update: bool
    checks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RelationFacts:
    """A relation that the role may read: its columns, and the role's rights to change rows."""

    insert: bool
    update: bool
    delete: bool
    columns: Mapping[str, ColumnFacts]

    @property
    def writable(self) -> bool:
        """True if the role may insert, update or delete rows."""
        return self.insert or self.update or self.delete


@dataclass(frozen=True, slots=True)
class FunctionFacts:
    """A function's result: rows of `relation`, rows of `columns` (name → type), or a `type`.

    `arguments` maps the names of its arguments to their types.
    """

    volatile: bool
    returns_set: bool
    relation: str | None
    columns: Mapping[str, str]
    type: str
    arguments: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Facts:
    """All objects in schema api that one role may use."""

    relations: Mapping[str, RelationFacts]
    functions: Mapping[str, FunctionFacts]


def parse(described: Mapping[str, Any]) -> Facts:
    """Convert the result of `gateway.describe_api()`."""
    relations = {
        name: RelationFacts(
            insert=relation["insert"],
            update=relation["update"],
            delete=relation["delete"],
            columns={
                column: ColumnFacts(
                    **(facts | {"checks": tuple(facts["checks"])}), type=relation["types"][column]
                )
                for column, facts in relation["columns"].items()
            },
        )
        for name, relation in described["relations"].items()
    }
    functions = {
        name: FunctionFacts(
            volatile=function["volatile"],
            returns_set=function["set"],
            relation=function["relation"],
            columns=function["columns"] or {},
            type=function["type"],
            arguments=function["arguments"] or {},
        )
        for name, function in described["functions"].items()
    }
    return Facts(relations, functions)
