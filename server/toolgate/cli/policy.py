"""`toolgate policy`: what a security team does with the files under `policies/`.

Each command has a module of its own, imported when it is wanted.
"""

import sys
from importlib import import_module
from typing import Final

import typer

COMMANDS: Final = (
    "check", "test", "fmt", "explain", "who-can", "what-can", "diff", "replay",
    "activate", "versions", "rollback",
)  # fmt: skip

app = typer.Typer(help="Check, test, explain, compare, activate and replay the policy.", no_args_is_help=True)


def _register() -> None:
    """Add the command that the shell asked for; all of them, where it asked for none."""
    asked = {word for word in sys.argv[2:3] if word in COMMANDS}
    for name in COMMANDS:
        if name in (asked or COMMANDS):
            function = name.replace("-", "_")
            app.command(name)(getattr(import_module(f"toolgate.cli.policy_{function}"), function))


_register()
