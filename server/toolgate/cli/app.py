"""The command's words, and how it ends: 0 done, 1 refused or misconfigured, 2 used wrongly, 3 unknown."""

import sys

import typer

from toolgate.cli import calls, secrets
from toolgate.cli.call import call
from toolgate.cli.check import check
from toolgate.cli.init import init
from toolgate.cli.output import complain
from toolgate.cli.serve import serve
from toolgate.cli.token import token
from toolgate.core.errors import CredentialUnavailable, LedgerUnavailable, Misconfigured

app = typer.Typer(
    name="toolgate",
    help="An MCP server that governs what AI agents may do with enterprise systems.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (init, check, serve, call, token):
    app.command()(command)
app.add_typer(calls.app, name="calls")
app.add_typer(secrets.app, name="secrets")


def main() -> None:
    """Run the command that the shell gave."""
    try:
        app()
    except (Misconfigured, CredentialUnavailable, LedgerUnavailable) as error:
        complain(error, as_json="--json" in sys.argv)
        sys.exit(1)
