"""`toolgate check`: everything that `serve` would refuse, all of it at once."""

import asyncio

import typer
from rich.text import Text

from toolgate.cli.output import HERE, AsJson, Root, out, print_faults, print_json
from toolgate.main import examine


def check(root: Root = HERE, as_json: AsJson = False) -> None:  # noqa: FBT002 - a command's flag
    """Say everything that serve would refuse, with file, place and remedy. Exits 1 when there is anything."""
    found = examine(root, to_serve=False)
    asyncio.run(found.aclose())
    if found.faults or found.rulebook is None:
        print_faults(found.faults, as_json=as_json)
        raise typer.Exit(1)
    tools = len(found.rulebook.catalog.tools)
    if as_json:
        print_json({"ok": True, "faults": [], "tools": tools, "version": found.rulebook.version})
        return
    said = f"{tools} tools admitted; version {found.rulebook.version}; nothing to refuse."
    out().print(Text(said, style="green"))
