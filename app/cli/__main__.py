"""The `flows` command. A module of this package is imported when one of its commands is named."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

from app.cli.output import fail
from app.cli.version import options

# Where each command or group of commands is, in the order of `flows --help`.
COMMANDS = {
    "serve": "app.cli.serve:serve",
    "up": "app.cli.up:up",
    "import": "app.cli.import_:import_file",
    "doctor": "app.cli.doctor:doctor",
    "prove": "app.cli.prove:prove",
    "demo": "app.cli.demo:demo",
    "db": "app.cli.db:db",
    "esco": "app.cli.escos:esco",
    "meter": "app.cli.meters:meter",
    "client": "app.cli.clients:client",
    "issuer": "app.cli.people:trusted",
    "member": "app.cli.people:member",
    "app": "app.cli.people:public_app",
    "token": "app.cli.tokens:token",
    "keys": "app.cli.keys:keys",
    "usage": "app.cli.usage:usage",
    "alerts": "app.cli.alerts:show_alerts",
    "backup": "app.cli.backup:backup",
}


class _Commands(Mapping[str, Any]):
    """The commands by name; a lookup imports what it finds."""

    def __getitem__(self, name: str) -> Any:
        module, _, attribute = COMMANDS[name].partition(":")
        found = getattr(import_module(module), attribute)
        holder = typer.Typer(rich_markup_mode="markdown")
        if isinstance(found, typer.Typer):
            holder.add_typer(found, name=name)
        else:
            holder.command(name)(found)
        return get_group(holder).commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class LazyGroup(TyperGroup):
    """The group of all commands. All modules take a second to import, which few commands need."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Commands()  # type: ignore[assignment]


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
)
app.callback()(options)


def main() -> None:
    """Run the console script; print a refusal to start as a one-line error."""
    try:
        app()
    except SystemExit as refusal:
        if not isinstance(refusal.code, str):
            raise
        fail(refusal.code)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
