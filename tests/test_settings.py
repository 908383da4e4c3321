"""A setting that cannot be is one line that names it, and says nothing secret."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("FLOWS_PORT", "abc", "FLOWS_PORT: Input should be a valid integer"),
        ("FLOWS_REST_MAX_BODY_BYTES", "-1", "FLOWS_REST_MAX_BODY_BYTES: Input should be greater"),
        ("FLOWS_CORS_ORIGINS", "example.org", "FLOWS_CORS_ORIGINS: 'example.org' is no origin"),
        (
            "FLOWS_DATABASE_URL",
            "postgresql://flows_gateway:changeme@db/flows",
            "FLOWS_DATABASE_URL: holds a placeholder",
        ),
    ],
)
def test_a_setting_that_cannot_be_is_named(name: str, value: str, expected: str) -> None:
    refused = subprocess.run(
        [sys.executable, "-m", "app.cli", "serve"],
        env=os.environ | {name: value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: {expected}")
    assert refused.stderr.count("\n") == 1
    assert "changeme" not in refused.stderr
