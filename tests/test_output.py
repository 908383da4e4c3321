"""Commands print foreign text without acting on it."""

import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from app.cli.output import cell, echo, escaped, fail
from tests.auth.test_clients import make
from tests.conftest import Stack, flows

CLI = Path(__file__).resolve().parents[1] / "app" / "cli"
# Markup, a link, an emoji code, escape codes (7 and 8 bits), backspaces, a change of direction.
HOSTILE = "[red]x[/] [link=//evil]y[/link] :bomb: \x1b[2J\x1b]0;t\x07 \x9b1A a\b\b \u202etxt \r"
SHOWN = (
    "[red]x[/] [link=//evil]y[/link] :bomb: \\x1b[2J\\x1b]0;t\\x07 \\x9b1A a\\x08\\x08 "
    "\\u202etxt \\r"
)


@pytest.mark.parametrize("text", ["", "Sch\xf6n \u2014 \u65e5\u672c", "a b"])
def test_66_plain_text_stays_as_it_is(text: str) -> None:
    assert escaped(text) == text


def test_66_nothing_in_a_text_acts_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert escaped(HOSTILE) == SHOWN
    assert escaped("a\nb\u2028c\ud800") == "a\\nb\\u2028c\\ud800"
    echo(HOSTILE)
    fail(HOSTILE)
    Console(width=200, force_terminal=True).print(cell(HOSTILE))
    printed = capsys.readouterr()
    assert printed.out == f"{SHOWN}\n{SHOWN}\n"
    assert re.sub("\x1b\\[[0-9;]*m", "", printed.err) == f"error: {SHOWN}\n"


def test_66_every_command_prints_through_what_escapes() -> None:
    for file in CLI.glob("*.py"):
        text = file.read_text()
        if file.name != "output.py":
            assert "typer.echo(" not in text, file
            assert "print(f" not in text, file
        assert len(re.findall(r"add_row\((?!\*)", text)) == 0, file
        assert text.count('TextColumn("{task.description}")') == 0, file


def test_66_names_of_clients_are_shown_as_they_are(stack: Stack) -> None:
    name = HOSTILE.strip()
    made = make(stack, name, "--esco", "wlce", "--scope", "read")
    listed = flows(stack, "client", "list").stdout
    assert "\x1b" not in listed
    assert SHOWN.removesuffix(" \\r") in listed
    as_json = flows(stack, "client", "list", "--json").stdout
    assert as_json.isascii()
    assert name in [client["name"] for client in json.loads(as_json)]
    refused = flows(stack, "client", "disable", f"{made['id']}\x1b[2J", check=False)
    assert "\x1b[2J" not in refused.stderr
