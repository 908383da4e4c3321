"""docker-compose.yml is valid, refers only to what exists, and starts services in order."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from app import __version__
from app.cli.__main__ import app
from app.settings import DatabaseSettings, PostgrestSettings, Settings

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docker-compose.yml"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text())["services"]


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


def test_every_setting_is_one_the_gateway_reads() -> None:
    known = {
        prefix + field.upper()
        for group, prefix in (
            (Settings, "FLOWS_"),
            (DatabaseSettings, "FLOWS_DATABASE_"),
            (PostgrestSettings, "FLOWS_POSTGREST_"),
        )
        for field in group.model_fields
    }
    for service in ("migrate", "gateway"):
        assert set(SERVICES[service]["environment"]) <= known


@pytest.mark.parametrize("service", ["migrate", "gateway"])
def test_every_command_exists(service: str) -> None:
    command = get_command(app)
    for word in SERVICES[service]["command"]:
        command = command.commands[word]  # type: ignore[attr-defined]


def test_each_service_waits_until_the_one_before_is_healthy_or_done() -> None:
    order = []
    name = "gateway"
    while waits := SERVICES[name].get("depends_on"):
        ((name, rule),) = waits.items()
        order.append(name)
        if rule["condition"] == "service_healthy":
            assert SERVICES[name]["healthcheck"]["test"]
        else:
            assert (rule["condition"], SERVICES[name]["restart"]) == (
                "service_completed_successfully",
                "no",
            )
    assert order == ["postgrest", "migrate", "database"]


def test_no_secret_is_written_down() -> None:
    for name, value in (
        pair for service in SERVICES.values() for pair in service.get("environment", {}).items()
    ):
        if "PASSWORD" in name or "://" in str(value):
            assert ":?" in str(value) or "@" not in str(value)


def test_tls_to_the_database_is_left_to_libpq() -> None:
    assert "sslmode" not in FILE.read_text()


def test_the_gateway_is_of_this_version_and_has_no_server_in_it() -> None:
    assert SERVICES["gateway"]["image"] == f"flows-gateway:{__version__}"
    built = SERVICES["gateway"]["build"]["dockerfile_inline"]
    assert "--editable .\n" in built, "no extra is installed"
