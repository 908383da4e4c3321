"""Invalid settings give one line that names the setting and contains no secret."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.embedded.ports import free_port
from app.settings import Group, HttpSettings, PostgrestSettings, Settings
from tests.commands import run_command

FORMER = {
    "FLOWS_REST_MAX_BODY_BYTES": "FLOWS_HTTP_MAX_BODY_BYTES",
    "FLOWS_REST_MAX_URL_BYTES": "FLOWS_HTTP_MAX_URL_BYTES",
    "FLOWS_REST_MAX_HEADER_BYTES": "FLOWS_HTTP_MAX_HEADER_BYTES",
    "FLOWS_REST_HEAD_SECONDS": "FLOWS_HTTP_HEAD_SECONDS",
    "FLOWS_REST_BODY_SECONDS": "FLOWS_HTTP_BODY_SECONDS",
    "FLOWS_REST_SEND_SECONDS": "FLOWS_HTTP_SEND_SECONDS",
    "FLOWS_REST_CONNECTIONS": "FLOWS_POSTGREST_CONNECTIONS",
    "FLOWS_REST_CONNECT_SECONDS": "FLOWS_POSTGREST_CONNECT_SECONDS",
    "FLOWS_REST_ANSWER_SECONDS": "FLOWS_POSTGREST_ANSWER_SECONDS",
}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("FLOWS_PORT", "abc", "FLOWS_PORT: Input should be a valid integer"),
        ("FLOWS_HTTP_MAX_BODY_BYTES", "-1", "FLOWS_HTTP_MAX_BODY_BYTES: Input should be greater"),
        ("FLOWS_REST_MAX_BODY_BYTES", "-1", "FLOWS_REST_MAX_BODY_BYTES: Input should be greater"),
        ("FLOWS_CORS_ORIGINS", "example.org", "FLOWS_CORS_ORIGINS: 'example.org' is not an origin"),
        (
            "FLOWS_DATABASE_URL",
            "postgresql://flows_gateway:changeme@db/flows",
            "FLOWS_DATABASE_URL: contains a placeholder",
        ),
        ("FLOWS_DATABASE_URL", "a-secret", "FLOWS_DATABASE_URL: is not a libpq URL"),
        ("FLOWS_DATABASE_ADMIN_URL", "a-secret", "FLOWS_DATABASE_ADMIN_URL: is not a libpq URL"),
        ("FLOWS_POSTGREST_DATABASE_URL", "a-secret", "FLOWS_POSTGREST_DATABASE_URL: is not a lib"),
        ("FLOWS_POSTGREST_URL", "postgrest:3000", "FLOWS_POSTGREST_URL: is not a URL like http"),
    ],
)
def test_a_setting_that_cannot_be_is_named(name: str, value: str, expected: str) -> None:
    refused = run_command(("serve",), os.environ | {name: value})
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: {expected}")
    assert refused.stderr.count("\n") == 1
    assert "changeme" not in refused.stderr
    assert "a-secret" not in refused.stderr


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "set FLOWS_DATABASE_URL"),
        (
            {
                "FLOWS_DATABASE_URL": "postgresql://flows_gateway@127.0.0.1:1/flows",
                "FLOWS_HOME": "/proc/flows",
            },
            "a key cannot be written to /proc/flows/keys",
        ),
    ],
)
def test_a_gateway_that_cannot_start_says_so_in_a_line_and_writes_nothing(
    tmp_path: Path, settings: dict[str, str], expected: str
) -> None:
    bare = {name: text for name, text in os.environ.items() if not name.startswith("FLOWS_")}
    refused = subprocess.run(
        [Path(sys.executable).parent / "flows", "serve"],
        env=bare | settings,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: {expected}")
    assert refused.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, in which `.env` is searched."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def value(settings: Settings, variable: str) -> float:
    """Return the value set by a variable, given its present name."""
    group, _, name = variable.removeprefix("FLOWS_").lower().partition("_")
    found: float = getattr(getattr(settings, group), name)
    return found


@pytest.mark.parametrize("former", FORMER)
def test_a_former_name_is_read_from_the_environment_and_from_env(
    folder: Path, monkeypatch: pytest.MonkeyPatch, former: str
) -> None:
    present = FORMER[former]
    default = value(Settings(), present)
    (folder / ".env").write_text(f"{former}=41\n")
    assert value(Settings(), present) == 41
    monkeypatch.setenv(former, "42")
    assert value(Settings(), present) == 42
    assert Settings().renamed_variables == {former: present}
    (folder / ".env").write_text(f"{former}=41\n{present}=43\n")
    assert value(Settings(), present) == 43
    monkeypatch.setenv(present, "44")
    assert value(Settings(), present) == 44
    assert default not in (41, 42, 43, 44)


@pytest.mark.usefixtures("folder")
def test_no_variable_is_called_renamed_unless_its_former_name_is_set() -> None:
    assert Settings().renamed_variables == {}
    names = {
        former: group.model_config["env_prefix"] + field.upper()
        for group in (HttpSettings, PostgrestSettings)
        for field, former in group.former_names.items()
    }
    assert names == FORMER


def test_a_gateway_says_once_which_settings_were_renamed(tmp_path: Path) -> None:
    former = {"FLOWS_REST_HEAD_SECONDS": "9", "FLOWS_REST_CONNECTIONS": "9"}
    gateway = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "serve"],
        env=os.environ
        | {
            "FLOWS_HOME": str(tmp_path),
            "FLOWS_PORT": str(free_port()),
            "FLOWS_DATABASE_URL": "postgresql://flows_gateway@127.0.0.1:1/flows",
        }
        | former,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert gateway.stderr is not None
        first = gateway.stderr.readline()
    finally:
        gateway.terminate()
        _, rest = gateway.communicate(timeout=30)
    assert json.loads(first)["level"] == "warning"
    for name in former:
        assert f"{name} is now {FORMER[name]}" in first
        assert name not in rest


SECRETS = {
    group.variable(field)
    for group in (Settings, *(kind.annotation for kind in Settings.model_fields.values()))
    if isinstance(group, type) and issubclass(group, Group)
    for field in group.secrets()
}
GIVEN = {
    "FLOWS_DATABASE_URL": "postgresql://flows_gateway:a-secret@db/flows",
    "FLOWS_DATABASE_ADMIN_URL": "postgresql://postgres:a-secret@db/flows",
    "FLOWS_DATABASE_DIRECT_URL": "postgresql://flows_gateway:a-secret@db/flows",
    "FLOWS_REPLICA_DATABASE_URL": "postgresql://flows_gateway:a-secret@replica/flows",
    "FLOWS_POSTGREST_DATABASE_URL": "postgresql://authenticator:a-secret@db/flows",
    "FLOWS_LIMITS_URL": "redis://flows:a-secret@redis:6379",
    "FLOWS_KEYS_SIGNING_KEY": "-----BEGIN a-secret-----\nx\n-----END a-secret-----",
    "FLOWS_ISSUERS_HMAC_SECRETS": '{"project": "a-secret-of-at-least-thirty-two-characters"}',
}


def secret(settings: Settings, variable: str) -> str | None:
    """Return the value of a secret, given its variable."""
    group, _, name = variable.removeprefix("FLOWS_").lower().partition("_")
    found = getattr(getattr(settings, group), name)
    if isinstance(found, dict) and found:
        return json.dumps({name: of.get_secret_value() for name, of in found.items()})
    return found.get_secret_value() if found else None


def test_the_secrets_of_the_tests_are_all_secrets() -> None:
    assert set(GIVEN) == SECRETS


@pytest.mark.parametrize("variable", GIVEN)
def test_a_secret_is_read_from_a_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.delenv(variable, raising=False)
    file = folder / "secret"
    file.write_text(GIVEN[variable] + "\n")
    assert secret(Settings(), variable) is None
    (folder / ".env").write_text(f"{variable}_FILE={file}\n")
    assert secret(Settings(), variable) == GIVEN[variable]
    (folder / ".env").unlink()
    monkeypatch.setenv(f"{variable}_FILE", str(file))
    assert secret(Settings(), variable) == GIVEN[variable]


@pytest.mark.parametrize("variable", GIVEN)
def test_a_file_of_a_secret_that_cannot_be_is_named_without_the_secret(
    folder: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(f"{variable}_FILE", str(folder / "gone"))
    with pytest.raises(SystemExit, match=rf"^{variable}_FILE: cannot read .*gone \(No such file"):
        Settings()
    (folder / "gone").write_bytes(b"\xff a-secret")
    with pytest.raises(SystemExit, match=r"it is not text\)$"):
        Settings()
    (folder / "gone").write_text(GIVEN[variable])
    monkeypatch.setenv(variable, GIVEN[variable])
    with pytest.raises(SystemExit, match=f"^set {variable} or {variable}_FILE, not both$"):
        Settings()


def test_a_secret_in_a_file_is_checked_as_in_a_variable(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLOWS_DATABASE_URL", raising=False)
    (folder / "secret").write_text("postgresql://flows_gateway:changeme@db/flows")
    monkeypatch.setenv("FLOWS_DATABASE_URL_FILE", str(folder / "secret"))
    with pytest.raises(SystemExit, match=r"^FLOWS_DATABASE_URL: contains a placeholder"):
        Settings()
