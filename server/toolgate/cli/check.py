"""`toolgate check`: everything that `serve` would refuse, all of it at once."""

import asyncio
from collections.abc import Sequence

import typer
from rich.text import Text

from toolgate.backends.registry_lock import not_served
from toolgate.callers import told_of
from toolgate.cli.listening import in_the_clear
from toolgate.cli.open_files import make_room
from toolgate.cli.output import HERE, AsJson, Root, err, out, print_faults, print_json, print_places
from toolgate.core.errors import Fault
from toolgate.examined import Examined, examine
from toolgate.main import trusted_issuers
from toolgate.settings import Settings


def check(root: Root = HERE, as_json: AsJson = False) -> None:  # noqa: FBT002 - a command's flag
    """Say everything that serve would refuse, with file, place and remedy. Exits 1 when there is anything.

    A tool that changed since its review is told, too: serve goes on without it.
    """
    found = examine(root, to_serve=False)
    asyncio.run(found.aclose())
    faults, warnings = _told(found)
    if as_json:
        _print_json(found, faults, warnings)
    elif faults or found.rulebook is None:
        print_faults(faults, as_json=False)
    else:
        version = found.rulebook.version
        said = f"{len(found.rulebook.catalog.tools)} tools admitted; version {version}; nothing to refuse."
        out().print(Text(said, style="green"))
        for issuer in _issuers(found):
            out().print(Text(issuer, style="dim"))
        out().print(Text(_limits_of(found), style="dim"))
    if warnings and not as_json:
        err().print(Text("Served all the same, but look at it:", style="yellow"))
        print_places(warnings)
    if faults or found.rulebook is None:
        raise typer.Exit(1)


def _told(found: Examined) -> tuple[list[Fault], Sequence[Fault]]:
    faults = [*found.faults, *(_faults_of_serving(found.settings) if found.settings else [])]
    if found.catalog is None:
        return faults, found.warnings
    return [*faults, *not_served(found.catalog.tools)], [*found.catalog.warnings, *found.warnings]


def _faults_of_serving(settings: Settings) -> list[Fault]:
    """Say what is wrong for `serve` alone; every other command goes on."""
    readable = in_the_clear(settings, settings.host)
    return [*make_room(settings.limits), *([] if readable is None else [readable])]


def _issuers(found: Examined) -> list[str]:
    return [] if found.settings is None else [told_of(issuer) for issuer in trusted_issuers(found.settings)]


def _limits_of(found: Examined) -> str:
    return f"limits: {', '.join(f'{name} {value}' for name, value in _limits(found).items())}"


def _limits(found: Examined) -> dict[str, float]:
    if found.settings is None:
        return {}
    return {"max_body": found.settings.max_body, **found.settings.limits.model_dump()}


def _print_json(found: Examined, faults: Sequence[Fault], warnings: Sequence[Fault]) -> None:
    said = {
        "faults": [vars(fault) for fault in faults],
        "warnings": [vars(fault) for fault in warnings],
        "limits": _limits(found),
        "issuers": _issuers(found),
    }
    if faults or found.rulebook is None:
        print_json({"ok": False, **said})
        return
    tools = len(found.rulebook.catalog.tools)
    print_json({"ok": True, **said, "tools": tools, "version": found.rulebook.version})
