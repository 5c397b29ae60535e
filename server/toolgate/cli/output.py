"""What the commands print: for people on a terminal, or one JSON document for programs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from toolgate.core.errors import Fault, Misconfigured

Root = Annotated[Path, typer.Option("--root", help="The deployment's folder.", show_default="this folder")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
HERE = Path()
_WIDEST = 10_000
_MOST_PLACES = 200


def out() -> Console:
    """The console for results."""
    return Console(highlight=False, soft_wrap=True)


def err() -> Console:
    """The console for everything else."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(document: Any) -> None:  # noqa: ANN401 - any JSON value
    """Print one JSON document."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_faults(faults: Sequence[Fault], *, as_json: bool) -> None:
    """Print everything that is wrong: where, what, and what to do."""
    if as_json:
        print_json({"ok": not faults, "faults": [vars(fault) for fault in faults]})
        return
    print_places(faults)
    count = len(faults)
    err().print(Text(f"{count} fault{'s' if count != 1 else ''}; nothing was started.", style="red"))


def print_places(faults: Sequence[Fault]) -> None:
    """Print where something is wrong, what, and what to do; of very many only the first."""
    console = err()
    for fault in faults[:_MOST_PLACES]:
        console.print(Text.assemble((fault.file, "bold"), ": ", (fault.place, "cyan")))
        console.print(Text(f"    {fault.problem}"))
        console.print(Text(f"    → {fault.remedy}", style="dim"))
    if len(faults) > _MOST_PLACES:
        console.print(Text(f"and {len(faults) - _MOST_PLACES} more; --json tells all", style="dim"))


def complain(error: Exception, *, as_json: bool) -> None:
    """Print why the command could not do its work."""
    if isinstance(error, Misconfigured):
        print_faults(error.faults, as_json=as_json)
    elif as_json:
        print_json({"ok": False, "error": str(error)})
    else:
        err().print(Text(str(error), style="red"))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a title."""
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, no_wrap=True)
    for row in rows:
        shown.add_row(*(Text(printable(cell)) for cell in row))
    console = out()
    widest = Measurement.get(console, console.options.update(max_width=_WIDEST), shown).maximum
    console.print(shown, width=max(console.width, widest))


def printable(text: str) -> str:
    """Keep what a caller wrote, or a strange database says, from talking to the terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
