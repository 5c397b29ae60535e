"""What the commands about the registry have in common: what is admitted, and how it stands to the lock."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from toolgate.backends.manifest_catalog import ManifestCatalog, Registry
from toolgate.backends.registry_lock import Standing, standings
from toolgate.backends.registry_lock_file import read_pins
from toolgate.backends.registry_pins import Pin
from toolgate.core.errors import Misconfigured
from toolgate.settings import read_settings

Tools = Annotated[
    list[str] | None,
    typer.Argument(help="Only these: `system.operation`.", metavar="TOOL", show_default="all"),
]
_SHOWN: int = 20


def admitted(root: Path) -> tuple[ManifestCatalog, Path]:
    """Give the admitted tools, and the folder of the manifests; nothing is connected to.

    Raises:
        Misconfigured: settings or manifests have faults.
    """
    folder = root / read_settings(root).registry
    registry = Registry(folder, root)
    try:
        catalog, faults = registry.read()
    finally:
        asyncio.run(registry.aclose())
    if catalog is None:
        raise Misconfigured(faults)
    return catalog, folder


def found_in(root: Path, names: Sequence[str] | None) -> list[Standing]:
    """Say how every operation stands, or only those of these names.

    Raises:
        Misconfigured: settings, manifests or lock have faults.
        BadParameter: there is no such operation.
    """
    catalog, folder = admitted(root)
    pins, faults = read_pins(folder)
    if faults:
        raise Misconfigured(faults)
    wanted = chosen(names, catalog, pins or {})
    return [one for one in standings(catalog.tools, pins or {}) if one.name in wanted]


def chosen(names: Sequence[str] | None, catalog: ManifestCatalog, pins: Mapping[str, Pin]) -> set[str]:
    """Give the operations that were named, admitted or pinned; all of them, where none was.

    Raises:
        BadParameter: there is no such operation.
    """
    if not names:
        return {tool.name for tool in catalog.tools} | pins.keys()
    return {_called(name, catalog, pins) for name in names}


def _called(name: str, catalog: ManifestCatalog, pins: Mapping[str, Pin]) -> str:
    tool = catalog.find(name)
    if tool is not None:
        return tool.name
    if name in pins:
        return name
    known = ", ".join([tool.name for tool in catalog.tools][:_SHOWN])
    problem = f"no operation {name!r} is admitted or pinned; there are {known}"
    raise typer.BadParameter(problem, param_hint="TOOL")
