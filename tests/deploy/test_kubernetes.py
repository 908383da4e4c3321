"""deploy/kubernetes is rendered, valid by the schemas of what it addresses, and fits together."""

import base64
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from typer.main import get_command

from app import __version__
from app.cli.__main__ import app
from tests.deploy.compose import ROOT, services
from tests.test_compose import run, variables

SCHEMAS = yaml.safe_load((ROOT / "tests/deploy/cloudnative_pg.yaml").read_text())
Manifest = dict[str, Any]
OURS = ("gateway", "flows")


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """The manifests that `kubectl kustomize` renders of the example, with secrets."""
    folder = tmp_path_factory.mktemp("kubernetes")
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    shutil.copy(ROOT / "postgrest.conf", folder)
    example = folder / "deploy" / "kubernetes" / "example"
    subprocess.run([str(folder / "deploy/secrets.sh"), "secrets", "database-rw"], check=True,
                   cwd=example)  # fmt: skip
    (example / "secrets" / "signing_key").write_text("a key")
    (example / "secrets" / "object_store.env").write_text("ACCESS_KEY_ID=a\nACCESS_SECRET_KEY=b\n")
    kubectl = Path(sys.executable).parent / "kubectl"
    render = [str(kubectl), "kustomize", "--load-restrictor", "LoadRestrictionsNone", str(example)]
    done = subprocess.run(render, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    """Return the manifests of a kind by name, without a generated name's hash."""
    found = (one for one in manifests if one["kind"] == kind)
    return {re.sub(r"-[0-9a-z]{10}$", "", one["metadata"]["name"]): one for one in found}


def pods(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Return the templates of all pods by the name of what makes them."""
    made = {name: one["spec"] for name, one in of_kind(manifests, "Deployment").items()}
    for name, one in of_kind(manifests, "CronJob").items():
        made[name] = one["spec"]["jobTemplate"]["spec"]
    return {name: spec["template"] for name, spec in made.items()}


def values(tree: Any, key: str) -> Iterator[Any]:
    """Yield the values of a key anywhere in a manifest."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name == key:
                yield value
            yield from values(value, key)
    elif isinstance(tree, list):
        for one in tree:
            yield from values(one, key)


def test_every_manifest_is_valid(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        if schema := SCHEMAS.get(manifest["kind"]):
            jsonschema_rs.validator_for(schema).validate(manifest)
        else:
            kubernetes_validate.validate(manifest, "1.34", strict=True)
        assert manifest["metadata"]["namespace"] == "flows"


def test_a_field_that_no_schema_has_is_found(manifests: list[Manifest]) -> None:
    cluster = of_kind(manifests, "Cluster")["database"]
    wrong = cluster | {"spec": cluster["spec"] | {"replicas": 3}}
    validator = jsonschema_rs.validator_for(SCHEMAS["Cluster"])
    with pytest.raises(jsonschema_rs.ValidationError):
        validator.validate(wrong)
    gateway = of_kind(manifests, "Deployment")["gateway"]
    wrong = gateway | {"spec": gateway["spec"] | {"instances": 3}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.34", strict=True)


def test_what_manifests_refer_to_is_there(manifests: list[Manifest]) -> None:
    names = {(one["kind"], one["metadata"]["name"]) for one in manifests}
    for manifest in manifests:
        spec = manifest.get("spec", {})
        for secret in values(spec, "secretName"):
            assert ("Secret", secret) in names or secret == "gateway-tls"  # of the controller
        for key in ("configMapRef", "configMapKeyRef"):
            assert all(("ConfigMap", one["name"]) in names for one in values(spec, key))
        for volume in values(spec, "configMap"):
            assert ("ConfigMap", volume["name"]) in names
        for key in ("superuserSecret", "accessKeyId", "secretAccessKey"):
            assert all(("Secret", one["name"]) in names for one in values(spec, key))
        for store in values(spec, "barmanObjectName"):
            assert ("ObjectStore", store) in names
        for target in values(spec, "scaleTargetRef"):
            assert (target["kind"], target["name"]) in names
    cluster = of_kind(manifests, "Cluster")["database"]
    backup = of_kind(manifests, "ScheduledBackup")["daily"]["spec"]
    assert backup["cluster"]["name"] == cluster["metadata"]["name"]
    assert backup["pluginConfiguration"]["name"] == cluster["spec"]["plugins"][0]["name"]


def test_services_budgets_and_policies_select_pods(manifests: list[Manifest]) -> None:
    labels = [pod["metadata"]["labels"] for pod in pods(manifests).values()]
    labels.append({"cnpg.io/cluster": "database"})
    ports = {
        port["name"] for pod in pods(manifests).values()
        for container in pod["spec"]["containers"] for port in container.get("ports", ())
    }  # fmt: skip
    for service in of_kind(manifests, "Service").values():
        selector = service["spec"]["selector"].items()
        assert any(selector <= one.items() for one in labels)
        assert service["spec"]["ports"][0]["targetPort"] in ports
    selectors = [*values(manifests, "podSelector"), *values(manifests, "selector")]
    for selector in selectors:
        if chosen := selector.get("matchLabels"):
            assert any(chosen.items() <= one.items() for one in labels), chosen
    policies = of_kind(manifests, "NetworkPolicy")
    assert policies["nothing-else"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    assert set(pods(manifests)) - {"flows"} <= set(policies)
    assert {"gateway", "postgrest"} == set(of_kind(manifests, "PodDisruptionBudget"))


def test_pods_can_do_little_and_are_watched(manifests: list[Manifest]) -> None:
    for name, pod in pods(manifests).items():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert container["resources"]["limits"]["memory"]
        image, _, tag = container["image"].rpartition(":")
        assert any(letter.isdigit() for letter in tag)
        if name in OURS:
            assert (image, tag) == ("registry.example.org/flows-gateway", __version__)
        else:
            assert container["image"] == services({"FLOWS_DOMAIN": "x"})[name]["image"]
        if name != "flows":
            assert {"livenessProbe", "readinessProbe"} <= container.keys()
    gateway = pods(manifests)["gateway"]["spec"]
    settings = of_kind(manifests, "ConfigMap")["flows"]["data"]
    assert gateway["terminationGracePeriodSeconds"] > float(settings["FLOWS_DRAIN_SECONDS"]) + 15
    scaled = of_kind(manifests, "HorizontalPodAutoscaler")["gateway"]["spec"]
    assert "replicas" not in of_kind(manifests, "Deployment")["gateway"]["spec"]
    assert scaled["minReplicas"] >= 2


def test_settings_commands_and_files_are_the_gateways(manifests: list[Manifest]) -> None:
    settings = of_kind(manifests, "ConfigMap")["flows"]["data"]
    assert set(settings) <= variables()
    mounted: dict[str, set[str]] = {}
    for name, pod in pods(manifests).items():
        (container,) = pod["spec"]["containers"]
        files = mounted.setdefault(name, set())
        volumes = {one["name"]: one.get("secret") for one in pod["spec"]["volumes"]}
        for mount in container["volumeMounts"]:
            if secret := volumes[mount["name"]]:
                (data,) = (one["data"] for one in of_kind(manifests, "Secret").values()
                           if one["metadata"]["name"] == secret["secretName"])  # fmt: skip
                files |= {f"{mount['mountPath']}/{key}" for key in data}
    for name in OURS:
        (container,) = pods(manifests)[name]["spec"]["containers"]
        command = get_command(app)
        for word in container["args"]:
            command = command.commands[word]  # type: ignore[attr-defined]
        own = {one["name"]: one["value"] for one in container.get("env", ())}
        assert set(own) <= variables()
        named = {value for key, value in (settings | own).items() if key.endswith("_FILE")}
        assert named <= mounted[name]
    (postgrest,) = pods(manifests)["postgrest"]["spec"]["containers"]
    url = next(one["value"] for one in postgrest["env"] if one["name"] == "PGRST_DB_URI")
    assert {url.removeprefix("@")} == mounted["postgrest"]
    # Only the commands have the administrator's login.
    assert not [file for name in ("gateway", "postgrest") for file in mounted[name]
                if "admin" in file]  # fmt: skip


def test_the_logins_lead_to_the_clusters_primary(manifests: list[Manifest]) -> None:
    secrets = of_kind(manifests, "Secret")

    def text(secret: str, key: str) -> str:
        return base64.b64decode(secrets[secret]["data"][key]).decode()

    cluster = of_kind(manifests, "Cluster")["database"]
    host = f"{cluster['metadata']['name']}-rw"
    database = cluster["spec"]["bootstrap"]["initdb"]["database"]
    for secret, key in (("flows", "database_url"), ("flows-admin", "database_admin_url"),
                        ("postgrest", "postgrest_database_url")):  # fmt: skip
        assert text(secret, key).endswith(f"@{host}/{database}")
    password = text("database-superuser", "password")
    assert password == password.strip()
    assert f"://postgres:{password}@" in text("flows-admin", "database_admin_url")


def test_the_server_is_configured_as_in_compose(manifests: list[Manifest]) -> None:
    spec = of_kind(manifests, "Cluster")["database"]["spec"]
    words = services({"FLOWS_DOMAIN": "x"})["database"]["command"]
    compose = dict(word.split("=", 1) for word in words if "=" in word)
    parameters = spec["postgresql"]["parameters"]
    for name in ("log_parameter_max_length", "max_connections", "max_locks_per_transaction",
                 "timescaledb.telemetry_level", "timezone"):  # fmt: skip
        assert parameters[name] == compose[name]
    assert "timescaledb" in spec["postgresql"]["shared_preload_libraries"]
    assert spec["instances"] == 3
    assert spec["postgresql"]["synchronous"]["number"] == 1
    store = of_kind(manifests, "ObjectStore")["backups"]["spec"]["configuration"]
    assert {store[part]["encryption"] for part in ("wal", "data")} == {"AES256"}
    image = (ROOT / "deploy/kubernetes/Dockerfile").read_text()
    version = spec["imageName"].partition("18-")[2]
    assert f"timescaledb-2-postgresql-18={version}*" in image
    assert f"timescaledb:{version}-pg18" in services({"FLOWS_DOMAIN": "x"})["database"]["image"]


def test_the_files_are_linted() -> None:
    rules = "{extends: default, rules: {line-length: {max: 120}, document-start: disable,"
    rules += " braces: {max-spaces-inside: 0}, truthy: disable, octal-values: disable,"
    rules += " indentation: {indent-sequences: consistent}}}"
    folder = ROOT / "deploy" / "kubernetes"
    files = map(str, (*folder.rglob("*.yaml"), ROOT / "tests/deploy/cloudnative_pg.yaml"))
    assert run("yamllint", "--strict", "-d", rules, *files) == ""
    assert run("hadolint", str(folder / "Dockerfile")) == ""
