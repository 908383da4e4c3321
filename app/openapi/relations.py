"""Conversion of the relations of /rest/v1 from PostgREST's Swagger to schemas and path items."""

from typing import Any

from app.openapi import columns, examples, filters, names, responses
from app.openapi.facts import Facts, RelationFacts
from app.openapi.types import JsonSchema

OBJECT = "application/vnd.pgrst.object+json"
CSV = "text/csv"
CSV_COLUMNS = 3  # of an example
READ_ERRORS = ("400", "401", "403", "404", "406", "416", "422", "500", "504")
WRITE_ERRORS = ("400", "401", "403", "404", "406", "409", "422", "500", "504")

# The same for both, so that they are one component.
ROWS_TOLD = "The rows; 206 if they were counted and there are more."
CONTENT_RANGE = {
    "Content-Range": {
        "description": "Range of the rows returned, and their total number (`*` unless counted).",
        "schema": {"type": "string"},
    }
}


class Relation:
    """A relation, with its schemas, its shared parameters and its path item."""

    def __init__(
        self, name: str, swagger: dict[str, Any], facts: RelationFacts, embeddable: list[str]
    ) -> None:
        self.name = name
        self.title = names.pascal(name)
        self.swagger = swagger
        self.facts = facts
        self.embeddable = embeddable
        self.columns = [
            column for column in swagger.get("properties", {}) if column in facts.columns
        ]

    def schemas(self) -> dict[str, JsonSchema]:
        """Return the component schemas of its rows by name."""
        rows = columns.row_schemas(self.name, self.swagger, self.facts)
        return {self.title + suffix: schema for suffix, schema in rows.items()}

    def parameters(self) -> dict[str, filters.Parameter]:
        """Return the filters of its columns by component name."""
        found = {}
        for column in self.columns:
            if column in filters.RESERVED | filters.LOGICAL:
                continue
            facts = self.facts.columns[column]
            described = self.swagger["properties"][column]
            found[f"{self.title}.{column}"] = filters.filter_parameter(
                column,
                columns.value_schema(self.name, column, described, facts),
                not_null=facts.not_null,
                meaning=columns.meaning(described),
            )
        return found

    def path_item(self) -> dict[str, Any]:
        """Return the operations that the role may use."""
        item: dict[str, Any] = {"get": self._list()}
        if self.facts.insert:
            item["post"] = self._create()
        if self.facts.update:
            item["patch"] = self._update()
        if self.facts.delete:
            item["delete"] = self._delete()
        return item

    def _operation(self, verb: str, summary: str, scope: str) -> dict[str, Any]:
        return {
            "operationId": names.operation_id(verb, self.name),
            "tags": [names.tag(self.name)],
            "summary": summary,
            "security": [{"oauth2": [scope]}, {"bearer": []}],
        }

    def _list(self) -> dict[str, Any]:
        parameters = [
            *self._filters(),
            filters.select(self.columns, self.embeddable),
            filters.order(self.columns),
            _ref("parameters", "limit"),
            _ref("parameters", "offset"),
            filters.prefer("count=exact"),
        ]
        operation = self._operation("list", f"List {_words(self.name)}", "read")
        if about := str(self.swagger.get("description", "")).strip():
            operation["description"] = about
        answers = {
            "200": {"description": ROWS_TOLD, "headers": CONTENT_RANGE, "content": self._rows()},
            "206": {"description": ROWS_TOLD, "headers": CONTENT_RANGE, "content": self._rows()},
        }
        return operation | {
            "parameters": parameters,
            "responses": answers | responses.rest(*READ_ERRORS, body=False),
        }

    def _create(self) -> dict[str, Any]:
        row = _ref("schemas", f"{self.title}Insert")
        operation = self._operation("create", f"Add to {_words(self.name)}", "write")
        return operation | {
            "parameters": [
                filters.on_conflict(self.columns),
                self._select(),
                filters.prefer(
                    "return=representation",
                    "return=minimal",
                    "return=headers-only",
                    "resolution=merge-duplicates",
                    "resolution=merge-duplicates,return=representation",
                    "resolution=ignore-duplicates",
                    "resolution=ignore-duplicates,return=representation",
                    "missing=default,return=representation",
                ),
            ],
            "requestBody": {
                "required": True,
                "description": "A row, or a list of rows with the same columns.",
                "content": {
                    responses.JSON: {
                        "schema": {"oneOf": [row, {"type": "array", "items": row}]},
                        "example": self._example(),
                    }
                },
            },
            "responses": {
                "200": {
                    "description": "All rows existed already (with `Prefer: resolution=…`).",
                    "content": self._changed(),
                },
                "201": {
                    "description": "Added; contains the rows with `Prefer: return=representation`.",
                    "content": self._changed(),
                },
            }
            | responses.rest(*WRITE_ERRORS, "415", body=True),
        }

    def _update(self) -> dict[str, Any]:
        operation = self._operation("update", f"Change {_words(self.name)}", "write")
        return operation | {
            "description": "Changes all rows that match the filters: **without a filter, all** of "
            "the ESCO's rows.",
            "parameters": [
                *self._filters(),
                self._select(),
                filters.prefer("return=representation", "return=minimal"),
            ],
            "requestBody": {
                "required": True,
                "content": {
                    responses.JSON: {
                        "schema": _ref("schemas", f"{self.title}Update"),
                        "example": dict(list(self._example(update=True).items())[:1]),
                    }
                },
            },
            "responses": self._changed_or_nothing()
            | responses.rest(*WRITE_ERRORS, "415", body=True),
        }

    def _delete(self) -> dict[str, Any]:
        operation = self._operation("delete", f"Remove from {_words(self.name)}", "write")
        return operation | {
            "description": "Removes all rows that match the filters: **without a filter, all** of "
            "the ESCO's rows.",
            "parameters": [
                *self._filters(),
                self._select(),
                filters.prefer("return=representation", "return=minimal"),
            ],
            "responses": self._changed_or_nothing() | responses.rest(*WRITE_ERRORS, body=False),
        }

    def _filters(self) -> list[dict[str, Any]]:
        return [_ref("parameters", name) for name in self.parameters()]

    def _select(self) -> filters.Parameter:
        return filters.select(self.columns, [])

    def _row(self) -> JsonSchema:
        return {"anyOf": [_ref("schemas", self.title), _ref("schemas", f"{self.title}Selection")]}

    def _rows(self) -> dict[str, Any]:
        """Return the content of a read: complete rows, or with `select` some of their columns."""
        return {
            responses.JSON: {"schema": {"type": "array", "items": self._row()}},
            OBJECT: {"schema": self._row()},
            CSV: {"schema": {"type": "string"}, "example": self._csv()},
        }

    def _csv(self) -> str:
        """Return a header and a row of the first columns, as `select` asks for them."""
        row = {
            column: examples.value(
                column,
                columns.value_schema(
                    self.name,
                    column,
                    self.swagger["properties"][column],
                    self.facts.columns[column],
                ),
            )
            for column in self.columns[:CSV_COLUMNS]
        }
        return f"{','.join(row)}\n{','.join(map(str, row.values()))}\n"

    def _changed(self) -> dict[str, Any]:
        return {responses.JSON: {"schema": {"type": "array", "items": self._row()}}}

    def _changed_or_nothing(self) -> dict[str, Any]:
        return {
            "200": {
                "description": "Done; contains the rows (with `Prefer: return=representation`).",
                "content": self._changed(),
            },
            "204": {"description": "Done."},
        }

    def _example(self, *, update: bool = False) -> dict[str, Any]:
        """Return a row to send: the columns an insert requires, and the first other columns."""
        example = {}
        for column in self.columns:
            facts, swagger = self.facts.columns[column], self.swagger["properties"][column]
            needed = facts.not_null and not facts.has_default
            told = column in examples.BY_NAME and not columns.is_key(swagger)
            if (told if update else needed or told) and (facts.update if update else facts.insert):
                schema = columns.value_schema(self.name, column, swagger, facts)
                example[column] = examples.value(column, schema)
        return example


def relations(swagger: dict[str, Any], facts: Facts) -> list[Relation]:
    """Return the relations that PostgREST serves and the role may read, ordered by name."""
    served = {
        name: swagger["definitions"][name]
        for name in sorted(swagger.get("definitions", {}))
        if name in facts.relations and f"/{name}" in swagger["paths"]
    }
    return [
        Relation(name, described, facts.relations[name], _embeddable(name, served))
        for name, described in served.items()
    ]


def _embeddable(name: str, served: dict[str, Any]) -> list[str]:
    """Return the relations linked to this one by exactly one foreign key, in either direction.

    Series are left out, whose rows need a limit of their own where they are embedded.
    """
    ties = [
        target if source == name else source
        for source, definition in served.items()
        for described in definition.get("properties", {}).values()
        if (target := columns.refers_to(described)) in served and name in (source, target)
    ]
    return sorted(
        other
        for other in set(ties)
        if ties.count(other) == 1
        and other != name
        and "timestamp" not in served[other].get("properties", {})
    )


def _ref(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}


def _words(name: str) -> str:
    return name.replace("_", " ")
