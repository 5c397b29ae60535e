"""The command's words, and how it ends: 0 done, 1 refused or misconfigured, 2 used wrongly, 3 unknown.

A command's module is only imported when the command is wanted: most of them need a small part of the house,
and a shell should not wait for the rest.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

import typer

from toolgate.cli.output import complain
from toolgate.core.errors import CredentialUnavailable, LedgerUnavailable, Misconfigured, NothingRecorded

COMMANDS: Final = ("init", "check", "serve", "status", "call", "token")
GROUPS: Final = ("calls", "leases", "ledger", "policy", "registry", "secrets")
APART: Final = {("ledger", "witness"): "ledger_witness", ("ledger", "witness-key"): "ledger_witness"}
"""Commands of a group that need little of it: a witness has no deployment, and runs on a small machine."""


def app(words: Sequence[str]) -> typer.Typer:
    """Build the command with the part that `words` ask for; with all of it, where they ask for none."""
    built = typer.Typer(
        name="toolgate",
        help="An MCP server that governs what AI agents may do with enterprise systems.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    built.callback()(_nothing_before_a_command)
    asked = {word for word in words[:1] if word in COMMANDS + GROUPS}
    for name in COMMANDS:
        if name in (asked or COMMANDS):
            built.command(name)(getattr(import_module(f"toolgate.cli.{name}"), name))
    for name in GROUPS:
        if name in (asked or GROUPS):
            module = APART.get((words[0], words[1]), name) if len(words) > 1 else name
            built.add_typer(import_module(f"toolgate.cli.{module}").app, name=name)
    return built


def main() -> None:
    """Run the command that the shell gave."""
    words = sys.argv[1:]
    try:
        " ".join(words).encode()  # what is not UTF-8 could be neither asked for nor recorded
        app(words)(args=words, prog_name="toolgate")
    except (Misconfigured, CredentialUnavailable, LedgerUnavailable, NothingRecorded) as error:
        complain(error, as_json="--json" in words)
        sys.exit(1)
    except (OSError, UnicodeError, OverflowError, RecursionError) as error:
        complain(_in_words(error), as_json="--json" in words)
        sys.exit(1)


def _in_words(error: Exception) -> Exception:
    """Say what was given that no command can use."""
    match error:
        case OSError():
            return error
        case UnicodeError():
            return ValueError("a text that was given is not UTF-8")
        case OverflowError():
            return ValueError("a number that was given is too large")
        case _:
            return ValueError("what was given is nested too deeply")


def _nothing_before_a_command() -> None:
    """An MCP server that governs what AI agents may do with enterprise systems."""
