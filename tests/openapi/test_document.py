"""`/openapi.json` is valid, matches the database, and shows callers only what they may use."""

import asyncio
import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import psutil
import psycopg
import pytest
from jsonschema_rs import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from app import example_ids
from app.auth.tokens import Grant
from app.openapi import source
from app.openapi.samples import Samples, last_week
from app.openapi.source import Documents
from tests.conftest import Stack, wait_until

ID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
OWN = re.compile(f"{ID.pattern}|EML2137580826|WLCE[0-9A-Z]+")

Document = dict[str, Any]
Fetch = Callable[..., Document]


def parameters(document: Document, operation: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the parameters of an operation, those that it shares with others as well."""
    shared = document["components"]["parameters"]
    return [
        shared[parameter["$ref"].rpartition("/")[2]] if "$ref" in parameter else parameter
        for parameter in operation.get("parameters", ())
    ]


def response(document: Document, operation: dict[str, Any], status: str) -> dict[str, Any]:
    """Return a response of an operation, also one that it shares with others."""
    found: dict[str, Any] = operation["responses"][status]
    name = found.get("$ref", "").rpartition("/")[2]
    shared: dict[str, Any] = document["components"]["responses"]
    return shared[name] if name else found


def operations(document: Document) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (path, method, operation)."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


@pytest.mark.parametrize(("esco", "kind"), [(None, "read"), ("wlce", "read"), ("wlce", "write")])
def test_the_document_is_valid_openapi_3_1(document: Fetch, esco: str | None, kind: str) -> None:
    found = document(esco, kind)
    assert found["openapi"].startswith("3.1.")
    assert [error.message for error in OpenAPIV31SpecValidator(found).iter_errors()] == []


PARSE = """
import SwaggerParser from "@apidevtools/swagger-parser";
const found = await SwaggerParser.validate(process.argv[2]);
console.log(Object.keys(found.paths).length);
"""


def lint(*command: Any, cwd: Path) -> str:
    """Run a linter that must find no error; return what it printed."""
    linted = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, cwd=cwd
    )
    assert linted.returncode == 0, linted.stdout + linted.stderr
    return linted.stdout + linted.stderr


def test_linters_find_no_error(
    document: Fetch, npm_tools: Path, saved: Callable[[Document], Path], tmp_path: Path
) -> None:
    (tmp_path / ".spectral.yaml").write_text('extends: ["spectral:oas"]')
    (tmp_path / "parse.mjs").write_text(PARSE)
    (tmp_path / "node_modules").symlink_to(npm_tools / "node_modules")
    tools = npm_tools / "node_modules/.bin"
    public, whole = map(saved, (document(), document("wlce", "write")))
    for found in (public, whole):
        assert "valid" in lint(tools / "redocly", "lint", "--extends=spec", found, cwd=tmp_path)
        paths = json.loads(found.read_text())["paths"]
        assert int(lint("node", "parse.mjs", found, cwd=tmp_path)) == len(paths)
    told = lint(tools / "spectral", "lint", "--display-only-failures", whole, cwd=tmp_path)
    assert "No results with a severity of 'error' found" in told


def test_nothing_is_said_twice(document: Fetch) -> None:
    found = document("wlce", "write")
    said = Counter(
        json.dumps(part, sort_keys=True)
        for _, _, operation in operations(found)
        for part in [*operation.get("parameters", ()), *operation["responses"].values()]
        if "$ref" not in part
    )
    assert [text for text, times in said.items() if times > 1] == []
    for name, parameter in found["components"]["parameters"].items():
        assert parameter["schema"].get("description") != parameter.get("description", ""), name
    schemes = found["components"]["securitySchemes"]
    assert [scheme for scheme in schemes.values() if scheme["type"] == "http"] == [
        schemes["bearer"]
    ]


def test_operations_read_well_and_none_lacks_errors(document: Fetch) -> None:
    found = document("wlce", "write")
    identities = [operation["operationId"] for _, _, operation in operations(found)]
    assert len(identities) == len(set(identities))
    assert {"listMeterRegistry", "createMeterRegistry", "getMetersForCli"} <= {*identities}
    assert {"getEnergy", "createToken", "revokeToken"} <= {*identities}
    energy = [one["name"] for one in parameters(found, found["paths"]["/v1/energy"]["get"])]
    assert {*energy[:2]} == {"period_from", "period_to"}, "what is required stands first"
    tags = {tag["name"] for tag in found["tags"]}
    for path, method, operation in operations(found):
        assert operation["tags"], (path, method)
        assert {*operation["tags"]} <= tags
        assert "security" in operation, (path, method)
        if operation["security"]:
            assert {"401", "403", "429"} <= operation["responses"].keys(), (path, method)


def test_without_a_token_it_shows_what_a_read_client_may_do(document: Fetch) -> None:
    public, read, write = document(), document("wlce", "read"), document("wlce", "write")
    for found in (public, read):
        for _, _, operation in operations(found):
            operation["parameters"] = parameters(found, operation)
            for parameter in operation["parameters"]:
                parameter.pop("example", None)  # of what exists for the caller
                parameter["schema"].pop("examples", None)
    public, read = (json.loads(OWN.sub("", json.dumps(one))) for one in (public, read))
    assert public["paths"] == read["paths"]
    assert public["paths"].keys() <= write["paths"].keys()
    for path, method, _ in operations(public):
        assert method == "get" or path.startswith(("/auth/", "/rest/v1/rpc/", "/v1/")), path
    assert "post" in write["paths"]["/rest/v1/meter_registry"]
    assert "post" not in write["paths"]["/rest/v1/circuit_interval_hh"]
    assert "delete" not in write["paths"]["/rest/v1/escos"]


def test_a_role_sees_the_operations_that_the_database_grants(
    document: Fetch, admin: psycopg.Connection[Any]
) -> None:
    verbs = {"post": "insert", "patch": "update", "delete": "delete"}
    paths = document("wlce", "write")["paths"]
    relations = admin.execute(
        "select relname from pg_class where relnamespace = 'api'::regnamespace and relkind = 'v'"
        " and has_table_privilege('flows', oid, 'select')"
    ).fetchall()
    assert len(relations) >= 18
    for (relation,) in relations:
        item = paths[f"/rest/v1/{relation}"]
        for method, verb in verbs.items():
            granted = admin.execute(
                "select has_any_column_privilege('flows', %(name)s, %(verb)s)"
                if verb != "delete"
                else "select has_table_privilege('flows', %(name)s, %(verb)s)",
                {"name": f"api.{relation}", "verb": verb},
            ).fetchone()
            assert granted is not None
            assert (method in item) == granted[0], (relation, verb)


def test_nothing_internal_is_shown(stack: Stack, document: Fetch) -> None:
    upstream = urlsplit(stack.contract["postgrest_url"]).netloc
    for found in (document(), document("wlce", "write")):
        text = json.dumps(found)
        for word in (upstream, "flows_owner", "authenticator", "_timescaledb", "secret_hash"):
            assert word not in text, word
        assert not [path for path in found["paths"] if path.startswith(("/metrics", "/admin"))]
        assert {server["url"] for server in found["servers"]} == {stack.contract["base_url"]}


def test_required_and_nullable_match_the_base_table(
    document: Fetch, admin: psycopg.Connection[Any]
) -> None:
    schemas = document("wlce", "write")["components"]["schemas"]
    columns = admin.execute(
        "select column_name, is_nullable = 'YES', column_default is not null"
        " from information_schema.columns"
        " where table_schema = 'flows' and table_name = 'meter_registry'"
    ).fetchall()
    row, insert = schemas["MeterRegistry"], schemas["MeterRegistryInsert"]
    assert {*row["required"]} == {name for name, _, _ in columns}
    assert {*insert.get("required", [])} == {
        name for name, null, default in columns if not null and not default
    }
    assert "type" in schemas["CircuitsInsert"]["required"]
    for name, null, _ in columns:
        kind = row["properties"][name]["type"]
        assert ("null" in kind if isinstance(kind, list) else False) == null, name


def test_constraints_become_values_and_limits(document: Fetch) -> None:
    schemas = document()["components"]["schemas"]
    assert schemas["MeterRegistry"]["properties"]["mode"]["enum"] == ["active", "passive", None]
    assert schemas["MeterRegisters"]["properties"]["element"]["enum"] == ["A", "B", "SINGLE", None]
    phase = schemas["ServiceHeadRegistry"]["properties"]["phase"]
    assert (phase["minimum"], phase["maximum"]) == (1, 3)
    assert schemas["RegisterIntervalHh"]["properties"]["import_kwh"]["minimum"] == 0


def test_the_aggregates_say_the_same_on_both_engines(document: Fetch) -> None:
    row = document()["components"]["schemas"]["CircuitIntervalHh"]["properties"]
    assert row["circuit_id"]["type"] == "string"
    assert row["timestamp"]["type"] == "string"
    assert row["total_import_kwh"]["type"] == ["number", "null"]


def test_every_answer_fits_its_schema(either: Stack) -> None:
    relations = 0
    with either.client("wlce") as client:
        found = client.get("/openapi.json").json()
        for path, method, operation in operations(found):
            if not path.startswith("/rest/v1/") or "/rpc/" in path or method != "get":
                continue
            content = response(found, operation, "200")["content"]["application/json"]
            schema = content["schema"] | {"components": found["components"]}
            # Without `select` a row is complete.
            schema = schema | {"items": content["schema"]["items"]["anyOf"][0]}
            rows = client.get(path, params={"limit": 20}).json()
            errors = [error.message for error in Draft202012Validator(schema).iter_errors(rows)]
            assert not errors, (path, errors[:3])
            relations += 1
    assert relations >= 30


def test_the_document_is_the_same_to_the_byte_on_12_and_16(
    stack: Stack, stack_of_16: Stack
) -> None:
    texts = []
    for each in (stack, stack_of_16):
        url = each.contract["base_url"]
        with each.client("wlce", "write") as client:
            swagger = client.get(f"{each.contract['postgrest_url']}/").text
            text = client.get("/openapi.json").text.replace(url, "http://gateway")
        assert ('"int64"' in swagger) == (each is stack_of_16), "the sources differ"
        # The examples are of rows as they were up to a minute ago, while another test ran.
        texts.append(ID.sub("", re.sub('"example":"[^"]*"', '"example":""', text)))
    assert texts[0] == texts[1]
    assert '"format":"int64"' in texts[0]


# Formats whose bodies no text of a document can show.
BINARY = "application/vnd.apache."


def shown(schema: dict[str, Any], components: dict[str, Any]) -> Any:
    """Return the example that a page shows for a schema; LookupError where it would invent one."""
    if "$ref" in schema:
        _, _, kind, name = schema["$ref"].split("/")
        return shown(components[kind][name], components)
    for told in ("examples", "enum"):
        if schema.get(told):
            return schema[told][0]
    for told in ("const", "default"):
        if schema.get(told) is not None:
            return schema[told]
    for some in ("anyOf", "oneOf"):
        if some in schema:
            return shown(schema[some][0], components)
    if schema.get("type") == "array":
        return [shown(schema["items"], components)]
    if "properties" in schema:
        return {name: shown(of, components) for name, of in schema["properties"].items()}
    raise LookupError(schema)


def described(document: Document) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every parameter, body and answer of success, each with what it is."""
    for path, method, operation in operations(document):
        for parameter in parameters(document, operation):
            yield f"{method} {path}: {parameter['name']}", parameter
        contents = {"body": operation.get("requestBody", {})}
        contents |= {
            status: response(document, operation, status)
            for status in operation["responses"]
            if status.startswith("2")
        }
        for name, of in contents.items():
            for media, content in of.get("content", {}).items():
                if not media.startswith(BINARY):
                    yield f"{method} {path}: {name} as {media}", content


@pytest.mark.parametrize(
    ("role", "scopes"),
    [("flows", ("read",)), ("flows", ("read", "write", "admin")), ("operator", ("admin",))],
)
def test_every_parameter_body_and_answer_has_an_example_that_fits(
    stack: Stack, role: str, scopes: tuple[str, ...]
) -> None:
    esco = UUID(stack.contract["escos"]["wlce"]["id"]) if role == "flows" else None
    token = stack.issue(Grant("flc_examples", role, esco, "wlce" if esco else None, scopes))
    with stack.client(None) as client:
        answer = client.get("/openapi.json", headers={"Authorization": f"Bearer {token}"})
        found = answer.json()
    components = found["components"]
    missing, wrong, seen = [], [], 0
    for what, part in described(found):
        try:
            told = [one["value"] for one in part.get("examples", {}).values()]
            told += [part["example"]] if "example" in part else []
            told = told or [shown(part["schema"], components)]
        except LookupError as error:
            missing.append((what, str(error)))
            continue
        validator = Draft202012Validator(part["schema"] | {"components": components})
        wrong += [(what, one) for one in told if not validator.is_valid(one)]
        seen += 1
    assert missing == []
    assert wrong == []
    assert seen > 30
    assert (example_ids.CIRCUIT_ID in answer.text) == (role == "operator"), "who has no circuits"


@pytest.mark.parametrize("code", ["wlce", "hmce"])
def test_ids_in_examples_are_the_callers(stack: Stack, code: str) -> None:
    with stack.client(code) as client:
        found = client.get("/openapi.json").json()
        energy = response(found, found["paths"]["/v1/energy"]["get"], "200")["content"]
        (row,) = energy["application/json"]["example"]["rows"]
        assert row["circuit"] in energy["text/csv"]["example"]
        assert client.get(f"/rest/v1/circuits?id=eq.{row['circuit']}").json()
        for relation, column in (
            ("meter_registry", "id"), ("meter_registry", "serial"), ("circuits", "id"),
            ("circuit_register", "register"), ("register_interval_hh", "register_id"),
            ("properties", "id"), ("sites_new", "id"), ("escos", "id"),
        ):  # fmt: skip
            path = f"/rest/v1/{relation}"
            by_name = {one["name"]: one for one in parameters(found, found["paths"][path]["get"])}
            first = examples(by_name[column])[0]
            assert first.startswith("eq.")
            answer = client.get(path, params={column: first, "limit": 1})
            assert answer.json(), (path, column, first)


@pytest.mark.parametrize("code", ["wlce", "hmce"])
def test_what_the_examples_name_exists_for_the_caller(stack: Stack, code: str) -> None:
    with stack.client(code) as client:
        found = client.get("/openapi.json").json()
        asked = 0
        for path, method, operation in operations(found):
            if not path.startswith("/v1/") or method != "get" or path.startswith("/v1/imports"):
                continue
            told = [one for one in parameters(found, operation) if "example" in one]
            named = {one["name"]: one["example"] for one in told if one["in"] == "path"}
            assert len(named) == path.count("{"), path
            query = {one["name"]: one["example"] for one in told if one["in"] == "query"}
            answer = client.get(path.format(**named), params=query)
            assert answer.status_code == 200, (path, answer.text)
            # Nothing may need attention.
            assert answer.json()["rows"] or path.endswith("/alerts"), path
            asked += 1
    assert asked >= 36


def test_the_values_that_lead_on_fit_their_schemas(stack: Stack) -> None:
    with stack.client("wlce") as client:
        found = client.get("/openapi.json").json()
        page = client.get("/v1/energy", params=stack.period(3, 1) | {"limit": 1}).json()
    by_name = {one["name"]: one for one in parameters(found, found["paths"]["/v1/energy"]["get"])}
    for name, value in (("cursor", page["next"]), ("changes", page["next_changes"])):
        validator = Draft202012Validator(by_name[name]["schema"])
        assert validator.is_valid(value), name
        # Encoded in a URL, these would be longer than any that is read.
        assert not validator.is_valid("\U000d3eec" * 20), name


@pytest.mark.parametrize("code", ["wlce", "hmce"])
def test_the_example_of_an_import_names_a_register_of_the_caller(stack: Stack, code: str) -> None:
    with stack.client(code, "write") as client:
        document = client.get("/openapi.json").json()
        body = document["paths"]["/v1/imports"]["post"]["requestBody"]["content"]
        form = body["multipart/form-data"]
        (options,) = form["schema"]["properties"]["options"]["examples"]
        assert form["example"]["options"] == options
        url = f"/rest/v1/meter_registers?register_id=eq.{options['register_id']}"
        assert len(client.get(url).json()) == 1


def test_without_a_caller_the_examples_are_of_the_last_week(stack: Stack) -> None:
    assert last_week(datetime(2026, 11, 26, 23, tzinfo=UTC)) == Samples(
        "2026-11-16T00:00:00Z", "2026-11-23T00:00:00Z"
    )
    with stack.client(None) as client:
        found = client.get("/openapi.json").json()
    energy = found["paths"]["/v1/circuits/{id}/energy"]["get"]
    examples = {one["name"]: one.get("example") for one in parameters(found, energy)}
    start, end = (datetime.fromisoformat(str(examples[f"period_{one}"])) for one in ("from", "to"))
    assert (start.weekday(), end - start) == (0, timedelta(days=7))
    assert examples["id"] is None


def test_a_document_of_some_tags_is_small_and_complete(stack: Stack) -> None:
    with stack.client("wlce", "write") as client:
        whole = client.get("/openapi.json").json()
        small = client.get("/openapi.json?tags=energy, tariffs").json()
        assert [error.message for error in OpenAPIV31SpecValidator(small).iter_errors()] == []
        assert {tag["name"] for tag in small["tags"]} == {"energy", "tariffs"}
        expected = {
            (path, method)
            for path, method, operation in operations(whole)
            if {"energy", "tariffs"} & {*operation["tags"]}
        }
        assert {(path, method) for path, method, _ in operations(small)} == expected
        assert small["components"]["schemas"].keys() < whole["components"]["schemas"].keys()
        assert "MeterRegistry" not in small["components"]["schemas"]
        assert small["info"] == whole["info"]
        refused = client.get("/openapi.json?tags=energy,nothing")
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_parameter")
        assert client.get("/openapi.json?tags=").json() == whole


def test_55_documents_of_some_tags_are_made_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may ask for any of them."""
    making, most = 0, 0

    def make(content: dict[str, Any], tags: frozenset[str]) -> dict[str, Any]:
        nonlocal making, most
        making += 1
        most = max(most, making)
        time.sleep(0.002)
        making -= 1
        return content | {"tags": sorted(tags)}

    async def ask() -> list[source.Document]:
        frame: Any = None
        documents, whole = Documents(frame), source.Document(b"{}", "")
        tags = (frozenset({str(number % 5)}) for number in range(20))
        return await asyncio.gather(*(documents.get_small(whole, each) for each in tags))

    monkeypatch.setattr(source, "only_tags", make)
    assert [document.body for document in asyncio.run(ask())] == [
        b'{"tags":["%d"]}' % (number % 5) for number in range(20)
    ]
    assert most == 1


@pytest.mark.parametrize(
    "path", ["/.well-known/jwks.json", "/.well-known/oauth-authorization-server"]
)
def test_the_keys_and_the_metadata_have_a_schema(stack: Stack, document: Fetch, path: str) -> None:
    found = document()
    answered = response(found, found["paths"][path]["get"], "200")
    content = answered["content"]["application/json"]
    with stack.client(None) as client:
        answer = client.get(path).json()
    Draft202012Validator(content["schema"]).validate(answer)
    assert content["schema"]["required"]


def test_every_choice_and_every_example_of_a_filter_works(either: Stack) -> None:
    with either.client("wlce") as client:
        found = client.get("/openapi.json").json()
        for path, item in found["paths"].items():
            if not path.startswith("/rest/v1/") or "/rpc/" in path:
                continue
            by_name = {one["name"]: one for one in parameters(found, item["get"])}
            trials = {
                name: examples(by_name[name])
                for name in by_name.keys() - {"select", "order", "limit", "offset", "Prefer"}
            }
            # Each request tries one example for every column.
            requests = [
                [(name, told[turn]) for name, told in trials.items() if turn < len(told)]
                for turn in range(max(map(len, trials.values())))
            ]
            for name in ("select", "order"):
                choices = by_name[name]["schema"]["examples"]
                requests += [[(name, ",".join(choices))]]
                requests += [[(name, choice)] for choice in choices if "(" in choice]
            for query in requests:
                answer = client.get(path, params=httpx.QueryParams([*query, ("limit", "1")]))
                assert answer.status_code == 200, (path, query, answer.text)
            for choice in by_name["Prefer"]["schema"]["enum"]:
                answer = client.get(path, params={"limit": 1}, headers={"Prefer": choice})
                assert answer.status_code in (200, 206), (path, choice, answer.text)


def test_an_unchanged_document_gives_304(stack: Stack) -> None:
    with stack.client("wlce") as client:
        first = client.get("/openapi.json")
        again = client.get("/openapi.json", headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
        assert first.headers["vary"] == "Authorization, apikey, Accept-Encoding"
        other = client.get("/openapi.json", headers={"If-None-Match": '"other"'})
        assert other.status_code == 200


def test_a_bad_token_is_refused(stack: Stack) -> None:
    with stack.client(None) as client:
        answer = client.get("/openapi.json", headers={"Authorization": "Bearer nonsense"})
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_document_follows_the_schema_without_a_restart(stack: Stack, document: Fetch) -> None:
    path = "/rest/v1/followed"
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as connection:
        connection.execute(
            "create view api.followed with (security_invoker = true) as"
            " select id, name as title, array['a'] as tags, tstzrange(now(), null) as during"
            " from flows.sites_new"
        )
        try:
            connection.execute("grant select on api.followed to public_backend")
            wait_until(lambda: path in document()["paths"])
            row = document()["components"]["schemas"]["Followed"]["properties"]
            assert row["title"]["type"] == ["string", "null"], "its base table is not declared"
            assert row["tags"]["type"] == ["array", "null"]
            assert "pattern" in row["during"]
            assert path not in document("wlce", "write")["paths"], "not granted to that role"
        finally:
            connection.execute("drop view api.followed")
        wait_until(lambda: path not in document()["paths"])


def test_the_document_is_served_while_postgrest_hangs(stack: Stack) -> None:
    port = urlsplit(stack.contract["postgrest_url"]).port
    (postgrest,) = (
        psutil.Process(connection.pid)
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
        and connection.laddr
        and connection.laddr.port == port
    )
    with stack.client(None) as client:
        before = client.get("/openapi.json")
        assert "x-flows-stale" not in before.headers
        postgrest.suspend()
        try:
            wait_until(lambda: "x-flows-stale" in client.get("/openapi.json").headers)
            stale = client.get("/openapi.json")
            assert stale.content == before.content
            assert stale.headers["warning"].startswith("110")
        finally:
            postgrest.resume()
        wait_until(lambda: "x-flows-stale" not in client.get("/openapi.json").headers)


def examples(parameter: dict[str, Any]) -> list[str]:
    """Return the example values in a filter's description."""
    schema = parameter["schema"]
    told: list[str] = schema.get("items", schema)["examples"]
    assert all(f"`{one}`" in parameter["description"] for one in told)
    return told
