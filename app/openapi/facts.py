"""What the catalogue says beyond PostgREST's Swagger; `gateway.describe_api()` answers it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ColumnFacts:
    """One column of an exposed relation, as the base table behind it has it."""

    not_null: bool
    has_default: bool
    insert: bool
    update: bool
    checks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RelationFacts:
    """What the role may do with a relation (reading it goes without saying), and its columns."""

    insert: bool
    update: bool
    delete: bool
    columns: Mapping[str, ColumnFacts]

    @property
    def writable(self) -> bool:
        """Whether the role may change anything here."""
        return self.insert or self.update or self.delete


@dataclass(frozen=True, slots=True)
class FunctionFacts:
    """What a function gives: rows of `relation`, rows of `columns` (name → type), or a `type`."""

    volatile: bool
    returns_set: bool
    relation: str | None
    columns: Mapping[str, str]
    type: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything in schema api that one role may use."""

    relations: Mapping[str, RelationFacts]
    functions: Mapping[str, FunctionFacts]


def parse(described: Mapping[str, Any]) -> Facts:
    """Read what `gateway.describe_api()` returned."""
    relations = {
        name: RelationFacts(
            insert=relation["insert"],
            update=relation["update"],
            delete=relation["delete"],
            columns={
                column: ColumnFacts(**(facts | {"checks": tuple(facts["checks"])}))
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
        )
        for name, function in described["functions"].items()
    }
    return Facts(relations, functions)
