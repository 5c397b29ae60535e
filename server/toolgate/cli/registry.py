"""`toolgate registry`: what was reviewed of the admitted operations, and what has changed since."""

import typer

from toolgate.cli.registry_diff import diff
from toolgate.cli.registry_list import list_
from toolgate.cli.registry_pin import lock

app = typer.Typer(help="Pin what was reviewed of every tool, and see what changed.", no_args_is_help=True)
app.command("lock")(lock)
app.command("diff")(diff)
app.command("list")(list_)
