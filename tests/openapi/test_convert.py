"""The converter's parts, tested by table without a server: types, constraints, filters, names."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from app.main import create_app
from app.openapi import columns, filters, names
from app.openapi.checks import keywords
from app.openapi.document import Frame, build
from app.openapi.facts import ColumnFacts, RelationFacts, parse
from app.openapi.types import RANGE_PATTERN, json_schema, nullable
from app.settings import DatabaseSettings, Settings
from tests import sixteen


@pytest.mark.parametrize(
    ("postgres", "schema"),
    [
        ("uuid", {"type": "string", "format": "uuid"}),
        ("timestamp with time zone", {"type": "string", "format": "date-time"}),
        ("numeric(10,2)", {"type": "number"}),
        ("jsonb", {}),
        ("text[]", {"type": "array", "items": {"type": ["string", "null"]}}),
        ("tstzrange", {"type": "string", "pattern": RANGE_PATTERN}),
        ("some_type", {"type": "string", "format": "some_type"}),
        ("character varying(8)", {"type": "string"}),
    ],
)
def test_a_type_is_what_postgrest_sends(postgres: str, schema: dict[str, Any]) -> None:
    assert json_schema(postgres) == schema


def test_null_joins_the_type_and_the_list_of_values() -> None:
    assert nullable({"type": "string", "enum": ["A"]}) == {
        "type": ["string", "null"],
        "enum": ["A", None],
    }
    assert nullable({}) == {}


@pytest.mark.parametrize(
    ("check", "found"),
    [
        ("CHECK ((c = ANY (ARRAY['a'::text, 'it''s'::text])))", {"enum": ["a", "it's"]}),
        ("CHECK (((c)::text = ANY ((ARRAY['x'::varchar])::text[])))", {"enum": ["x"]}),
        ("CHECK (((c >= (0)::numeric) AND (c < 'Infinity'::numeric)))", {"minimum": 0}),
        ("CHECK (((c >= 1) AND (c <= 3)))", {"minimum": 1, "maximum": 3}),
        ("CHECK ((c > (0)::numeric))", {"exclusiveMinimum": 0}),
        ("CHECK ((c < 0.5))", {"exclusiveMaximum": 0.5}),
        ("CHECK ((c >= '-90'::integer))", {"minimum": -90}),
        ("CHECK (((c > 5) OR (c < 2)))", {}),
        ("CHECK ((end_time > start_time))", {}),
        ("CHECK (((other >= 1) AND (other <= 3)))", {}),
    ],
)
def test_a_constraint_says_what_is_allowed(check: str, found: dict[str, Any]) -> None:
    assert keywords("c", (check,)) == found


FACTS = ColumnFacts(
    type="uuid", not_null=True, has_default=False, insert=True, update=True, checks=()
)


def test_keys_and_comments_become_sentences() -> None:
    described = {
        "format": "text",
        "description": "The meter.\n\nNote:\nThis is a Foreign Key to `meter_registry.id`."
        "<fk table='meter_registry' column='id'/>",
    }
    schema = columns.property_schema("circuits", "meter", described, FACTS)
    assert schema["format"] == "uuid"
    assert schema["description"] == "The meter. Refers to `meter_registry.id`."
    assert columns.refers_to(described) == "meter_registry"
    assert not columns.is_key(described)


def test_a_generated_column_is_read_only_and_never_asked_for() -> None:
    free = ColumnFacts(
        type="text", not_null=True, has_default=False, insert=True, update=True, checks=()
    )
    made = ColumnFacts(
        type="text", not_null=True, has_default=True, insert=False, update=False, checks=()
    )
    fixed = ColumnFacts(
        type="text", not_null=True, has_default=True, insert=True, update=False, checks=()
    )
    relation = RelationFacts(True, True, False, {"free": free, "made": made, "fixed": fixed})
    swagger = {"properties": {name: {"format": "text"} for name in relation.columns}}
    schemas = columns.row_schemas("r", swagger, relation)
    assert schemas[""]["required"] == ["free", "made", "fixed"]
    assert "required" not in schemas["Selection"]
    assert schemas[""]["properties"]["made"]["readOnly"] is True
    assert "readOnly" not in schemas[""]["properties"]["fixed"]
    assert {*schemas["Insert"]["properties"]} == {"free", "fixed"}
    assert schemas["Insert"]["required"] == ["free"]
    assert {*schemas["Update"]["properties"]} == {"free"}


@pytest.mark.parametrize(
    ("column", "schema", "operators"),
    [
        ("serial", {"type": "string"}, {"eq", "neq", "like", "ilike", "in"}),
        ("mode", {"type": "string", "enum": ["active", "passive"]}, {"eq", "neq", "in"}),
        ("import_kwh", {"type": "number"}, {"eq", "neq", "gt", "gte", "lt", "lte", "in"}),
        ("enabled", {"type": "boolean"}, {"is"}),
        ("tags", {"type": "array", "items": {"type": "string"}}, {"cs", "cd", "ov"}),
    ],
)
def test_a_filter_says_the_operators_of_its_type(
    column: str, schema: dict[str, Any], operators: set[str]
) -> None:
    trials = filters.trials(column, schema, not_null=True)
    assert {trial.split(".")[0] for trial, _ in trials} == operators
    parameter = filters.filter_parameter(column, schema, not_null=False)
    assert "`is.null`" in parameter["description"]


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("circuit_interval_daily", "energy"),
        ("meter_registry", "meters"),
        ("meters_offline_all", "meters"),
        ("get_meters_for_cli", "meters"),
        ("register_interval_hh_missing", "readings"),
        ("meter_csq", "readings"),
        ("meter_event_log", "readings"),
        ("meter_event_log_type", "meters"),
        ("meter_shadows_tariffs", "tariffs"),
        ("meters_low_balance", "tariffs"),
        ("meter_prepay_balance", "tariffs"),
        ("sites_new", "infrastructure"),
        ("circuits", "infrastructure"),
    ],
)
def test_a_relation_belongs_to_a_domain(name: str, tag: str) -> None:
    assert names.tag(name) == tag


@pytest.mark.parametrize(
    ("method", "path", "identity"),
    [
        ("get", "/v1/energy", "getEnergy"),
        ("post", "/auth/token", "createToken"),
        ("post", "/auth/revoke", "revokeToken"),
        ("post", "/auth/introspect", "introspectToken"),
        ("get", "/.well-known/jwks.json", "getJwks"),
        ("delete", "/auth/clients/{client_id}", "deleteClients"),
    ],
)
def test_an_operation_of_the_gateway_reads_well(method: str, path: str, identity: str) -> None:
    assert names.route_operation_id(method, path) == identity


def test_every_operation_has_a_name_of_its_own(tmp_path: Path) -> None:
    database = DatabaseSettings(url=SecretStr("postgresql://gateway@localhost/flows"))
    gateway = create_app(Settings(home=tmp_path, database=database))
    own = gateway.state.documents.frame.own
    identities = [one["operationId"] for item in own["paths"].values() for one in item.values()]
    assert len(identities) == len({*identities})
    assert {"getAdminClients", "getAdminClient", "createToken", "getEnergy"} <= {*identities}


RECORDED = Path(__file__).parent / "recorded"


def recorded(name: str) -> dict[str, Any]:
    """Return what was recorded of a stack: PostgREST's Swagger, or `gateway.describe_api()`."""
    found: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text())
    return found


def recorded_document(version: int) -> dict[str, Any]:
    """Return the document of the recorded database on a version of PostgREST."""
    frame = Frame("http://gateway", "0", {"paths": {}}, frozenset())
    facts = parse(recorded("catalogue"))
    return build(frame, recorded(f"swagger-{version}"), facts, {"read", "write"})


def test_the_document_of_12_and_16_differs_only_in_what_16_knows() -> None:
    old, new = recorded_document(12), recorded_document(16)
    # 12 takes a primary key for nothing else, so that it does not tell what this one refers to.
    refers = "Part of the primary key. Refers to `meter_registry.id`."
    shown = json.dumps(new)
    assert shown.count(refers) > json.dumps(old).count(refers)
    for relation, other in (
        ("meter_shadows", "meter_registry"),
        ("meter_registry", "meter_shadows"),
    ):
        choices = parameter_of(new, f"/rest/v1/{relation}", "select")["schema"]["examples"]
        choices.remove(f"{other}(*)")
    told = "Part of the primary key."
    assert json.dumps(new).replace(refers, told) == json.dumps(old).replace(refers, told)


def parameter_of(document: dict[str, Any], path: str, name: str) -> dict[str, Any]:
    """Return a parameter of the read of a relation."""
    found = document["paths"][path]["get"]["parameters"]
    return next(one for one in found if one.get("name") == name)


@pytest.mark.parametrize("version", [12, 16])
def test_integers_are_integers_whatever_the_swagger_calls_them(version: int) -> None:
    facts = recorded("catalogue")["relations"]
    schemas = recorded_document(version)["components"]["schemas"]
    seen = 0
    for relation, described in facts.items():
        properties = schemas[names.pascal(relation)]["properties"]
        for column, of in described["types"].items():
            if of in ("smallint", "integer", "bigint"):
                kind = properties[column]["type"]
                assert "integer" in (kind if isinstance(kind, list) else [kind]), (relation, column)
                seen += 1
    assert seen >= 6


def test_the_double_of_16_calls_types_what_16_calls_them() -> None:
    told = json.loads(sixteen.swagger((RECORDED / "swagger-12.json").read_bytes()))
    real = recorded("swagger-16")
    for each in (told, real):
        del each["definitions"]["meter_shadows"]["properties"]["id"]["description"]
    assert told["definitions"] == real["definitions"]
    for path in real["paths"]:
        assert parameters_of(told, path) == parameters_of(real, path)


def parameters_of(swagger: dict[str, Any], path: str) -> Any:
    """Return the arguments that a function has in a Swagger."""
    return [
        one
        for one in swagger["paths"][path].get("post", {}).get("parameters", ())
        if one.get("in") == "body"
    ]
