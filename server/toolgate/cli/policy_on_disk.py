"""The policy as it lies on the disk, with what it is held against. Nothing is written; no key is needed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from toolgate.backends.policy.reading import read_policy
from toolgate.backends.policy.text import PolicyText
from toolgate.cli.policy_parts import read_catalog
from toolgate.core.errors import Fault
from toolgate.core.tool import Tool
from toolgate.rulebooks import misfits
from toolgate.settings import Settings, read_settings

Policies = Annotated[
    Path | None,
    typer.Option("--policies", help="The policy's folder.", show_default="the one of the settings"),
]


@dataclass(frozen=True, kw_only=True)
class OnDisk:
    """A policy, the tools that it is about, and everything that `serve` would refuse in both."""

    folder: Path
    text: PolicyText | None
    tools: tuple[Tool, ...]
    settings: Settings
    faults: tuple[Fault, ...]


def policy_on_disk(root: Path, policies: Path | None) -> OnDisk:
    """Read settings, registry and the files in `policies`, else in the settings' folder.

    Raises:
        Misconfigured: the settings cannot be read.
    """
    settings = read_settings(root)
    folder = policies if policies is not None else root / settings.policies
    catalog, faults = read_catalog(root, settings)
    text, more = read_policy(folder)
    return OnDisk(
        folder=folder,
        text=text,
        tools=() if catalog is None else tuple(catalog.tools),
        settings=settings,
        faults=(*faults, *more, *misfits(text, catalog)),
    )
