"""The page of the `flows` commands, generated from their help by `typer utils docs`."""

import re
import subprocess
import sys

INTRODUCTION = """\
# Command line

`flows` is in `.venv/bin`; after `. .venv/bin/activate` it is on the path. Commands that work on
the database log in with `FLOWS_DATABASE_ADMIN_URL` or, without it, to the embedded stack in
`FLOWS_HOME`. With `--json` an answer is for programs. A refusal is one line on standard error and
exit code 1.
"""
TYPER = (sys.executable, "-m", "typer", "app.cli.__main__", "utils", "docs", "--name", "flows")


def page() -> str:
    """Return the page as Markdown."""
    made = subprocess.run(TYPER, capture_output=True, text=True, check=True).stdout
    _, _, body = made.strip().partition("\n")
    return INTRODUCTION + _link_commands(body.replace("```console\n", "```text\n")) + "\n"


def _link_commands(body: str) -> str:
    """Replace the list of a group's commands, in which help is cut, by links to their sections."""
    group, lines, listing = "flows", [], False
    for line in body.splitlines():
        if heading := re.match(r"#+ `(.+)`", line):
            group = heading[1]
        listing = line == "**Commands**:" or (listing and (not line or line.startswith("* ")))
        if listing and (command := re.match(r"\* `([\w-]+)`", line)):
            name = f"{group} {command[1]}"
            lines.append(f"* [`{name}`](#{name.replace(' ', '-')})")
        else:
            lines.append(line)
    return "\n".join(lines)
