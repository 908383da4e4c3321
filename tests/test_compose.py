"""docker-compose.yml is valid, refers only to what exists, and starts services in order."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from typer.main import get_command

from app import __version__
from app.cli.__main__ import app
from app.http.protocol import KEEP_ALIVE_SECONDS
from app.settings import Group, HttpSettings, Settings

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docker-compose.yml"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text())["services"]
OURS = [name for name, one in SERVICES.items() if one["image"].startswith("flows-")]


def test_the_file_is_valid_by_the_compose_specification() -> None:
    done = subprocess.run(
        [
            str(Path(sys.executable).parent / "check-jsonschema"),
            "--builtin-schema",
            "vendor.compose-spec",
            str(FILE),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("service", SERVICES)
def test_images_are_pinned_to_a_version(service: str) -> None:
    _, _, tag = SERVICES[service]["image"].partition(":")
    assert any(letter.isdigit() for letter in tag)


def variables() -> set[str]:
    """Return the variables of all settings, with those that name a secret's file."""
    groups: list[type[Group]] = [
        Settings,
        *(
            group
            for field in Settings.model_fields.values()
            if isinstance(group := field.annotation, type) and issubclass(group, Group)
        ),
    ]
    known = {group.variable(field) for group in groups for field in group.model_fields}
    return known | {f"{name}_FILE" for name in known}


@pytest.mark.parametrize("service", OURS)
def test_every_setting_is_one_the_gateway_reads(service: str) -> None:
    assert set(SERVICES[service]["environment"]) <= variables()


@pytest.mark.parametrize("service", OURS)
def test_every_setting_can_be_given_in_the_env_file(service: str) -> None:
    assert SERVICES[service]["env_file"] == [{"path": ".env", "required": False}]


@pytest.mark.parametrize("service", [name for name in OURS if "command" in SERVICES[name]])
def test_every_command_exists(service: str) -> None:
    command = get_command(app)
    for word in SERVICES[service]["command"]:
        command = command.commands[word]  # type: ignore[attr-defined]


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_waits_until_those_before_are_healthy_or_done(service: str) -> None:
    for name, rule in SERVICES[service].get("depends_on", {}).items():
        if rule["condition"] == "service_healthy":
            assert SERVICES[name]["healthcheck"]["test"]
        else:
            assert rule["condition"] == "service_completed_successfully"
            assert SERVICES[name]["restart"] == "no"


def test_clients_come_last() -> None:
    def before(name: str) -> set[str]:
        waits = set(SERVICES[name].get("depends_on", {}))
        return waits.union(*map(before, waits))

    everything = {"gateway-1", "gateway-2", "postgrest", "migrate", "database", "prepare"}
    assert before("caddy") == everything


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_can_do_little_and_is_bounded(service: str) -> None:
    described = SERVICES[service]
    assert described["read_only"] is True
    assert described["cap_drop"] == ["ALL"]
    assert described["security_opt"] == ["no-new-privileges:true"]
    assert described["logging"]["options"] == {"max-size": "10m", "max-file": "5"}
    assert set(described["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    if service != "prepare":  # gives the volumes to the others' users
        assert described.get("user", "10001").partition(":")[0] != "0"
    if service == "database":  # parallel queries share memory, of which a container has 64 MB
        assert described["shm_size"] == "512m"
    ends = described.get("restart") == "no"
    assert ends or "healthcheck" in described


def test_no_secret_is_written_down() -> None:
    for name, value in (
        pair for service in SERVICES.values() for pair in service.get("environment", {}).items()
    ):
        if "PASSWORD" in name or "://" in str(value):
            assert ":?" in str(value) or "@" not in str(value)


def test_tls_to_the_database_is_left_to_libpq() -> None:
    assert "sslmode" not in FILE.read_text()


def test_no_service_clashes_with_another_for_a_port() -> None:
    taken = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert sorted(taken) == ["127.0.0.1:3000:3000", "443:443", "80:80"]


@pytest.mark.parametrize("service", OURS)
def test_ours_are_of_this_version(service: str) -> None:
    image, _, tag = SERVICES[service]["image"].partition(":")
    assert image in ("flows-gateway", "flows-backup")
    assert tag == __version__


def test_the_gateways_image_has_no_server_in_it() -> None:
    dockerfile = (ROOT / SERVICES["backup"]["build"]["dockerfile"]).read_text()
    _, _, gateway = dockerfile.partition("AS gateway")
    assert gateway.startswith(
        '\nRUN pip install --constraint constraints.txt --editable ".[otel]" '
    )
    for service in ("gateway-1", "gateway-2", "migrate", "flows"):
        assert SERVICES[service]["build"]["target"] == "gateway"


def run(program: str, *words: str) -> str:
    """Run a linter of this environment; return its complaints."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / program), *words],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    return done.stdout + done.stderr if done.returncode else ""


def test_files_of_the_deployment_are_linted() -> None:
    rules = "{extends: default, rules: {line-length: {max: 120}, document-start: disable,"
    rules += " braces: {max-spaces-inside: 0}, truthy: disable}}"
    files = ["docker-compose.yml", *map(str, (ROOT / "deploy").rglob("*.yml"))]
    assert run("yamllint", "--strict", "-d", rules, *files) == ""
    assert run("hadolint", "deploy/Dockerfile") == ""
    assert run("shellcheck", *map(str, (ROOT / "deploy").rglob("*.sh"))) == ""
    assert run("caddy", "fmt", "--diff", "deploy/caddy/Caddyfile") == ""


def test_caddy_closes_a_connection_without_requests_before_the_gateway_does() -> None:
    """Else a write that is sent as the gateway closes would be lost."""
    text = (ROOT / "deploy" / "caddy" / "Caddyfile").read_text()
    found = re.search(r"keepalive (\d+)s$", text, re.MULTILINE)
    assert found
    assert int(found[1]) < min(HttpSettings().head_seconds, KEEP_ALIVE_SECONDS)


def test_secrets_are_written_once_and_are_the_ones_the_file_mounts(tmp_path: Path) -> None:
    def write() -> dict[str, str]:
        subprocess.run([str(ROOT / "deploy" / "secrets.sh"), str(tmp_path / "s")], check=True)
        return {file.name: file.read_text() for file in (tmp_path / "s").iterdir()}

    first = write()
    assert write() == first
    assert (tmp_path / "s").stat().st_mode & 0o077 == 0
    mounted = yaml.safe_load(FILE.read_text())["secrets"]
    assert {one["file"].rpartition("/")[2] for one in mounted.values()} <= first.keys()
    assert len(first["database_admin_password"].strip()) == 48


MEASURES = re.compile(r"\bflows_[a-z_]+")
COUNTED = re.compile(r"_(total|bucket|seconds_bucket)$")
RULES = yaml.safe_load((ROOT / "deploy/prometheus/rules/flows.yml").read_text())["groups"][0][
    "rules"
]
OUR_BOARDS = [
    ROOT / "deploy/grafana/dashboards" / f"{name}.json" for name in ("gateway", "database")
]


def test_every_alert_has_a_runbook_and_is_of_measures_that_exist() -> None:
    page = (ROOT / "docs/how-to/alerts.md").read_text()
    headings = {line[3:] for line in page.splitlines() if line.startswith("## ")}
    assert {rule["alert"] for rule in RULES} == headings
    for rule in RULES:
        anchor = rule["annotations"]["runbook_url"].partition("#")[2]
        assert anchor == rule["alert"].lower()
        assert rule["labels"]["severity"] in ("critical", "warning")
    assert unknown_measures(" ".join(rule["expr"] for rule in RULES)) == set()


@pytest.mark.parametrize("board", OUR_BOARDS, ids=lambda board: board.stem)
def test_a_dashboard_is_of_measures_that_exist(board: Path) -> None:
    panels = json.loads(board.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) >= 8
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    assert unknown_measures(" ".join(expressions)) == set()
    sources = yaml.safe_load(
        (ROOT / "deploy/grafana/provisioning/datasources/flows.yml").read_text()
    )["datasources"]
    used = {panel["datasource"]["uid"] for panel in panels}
    assert used <= {source["uid"] for source in sources}


def test_queries_of_alerts_and_dashboards_can_be_parsed() -> None:
    for rule in RULES:
        promql_parser.parse(rule["expr"])
    for board in OUR_BOARDS:
        for panel in json.loads(board.read_text())["panels"]:
            for target in panel["targets"]:
                promql_parser.parse(target["expr"].replace("$__rate_interval", "5m"))
    with pytest.raises(ValueError, match="unclosed"):
        promql_parser.parse("sum(rate(flows_requests_total[5m])")


def test_prometheus_takes_its_configuration() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool here (apt-get install prometheus)")
    check = [promtool, "check", "config", str(ROOT / "deploy/prometheus/prometheus.yml")]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{len(RULES)} rules found" in done.stdout


def unknown_measures(text: str) -> set[str]:
    """Return the names of measures in a text that the gateway does not expose."""
    source = "".join(file.read_text() for file in (ROOT / "app/monitoring").glob("*.py"))
    names = {COUNTED.sub("", name) for name in MEASURES.findall(text)}
    return {name for name in names if f'"{name}"' not in source}
