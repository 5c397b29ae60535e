"""What the questions about a policy have in common: which policy is meant, and who and what is known."""

import asyncio
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from toolgate.backends.manifest_catalog import Registry
from toolgate.backends.policy.reading import parse_policy, read_policy
from toolgate.backends.policy.text import PolicyText
from toolgate.backends.policy_stored import SHORT, StoredPolicies
from toolgate.cli.local import named_caller
from toolgate.cli.output import printable
from toolgate.core.call import Caller
from toolgate.core.errors import Fault, Misconfigured, NothingRecorded
from toolgate.core.ports import Catalog
from toolgate.core.tool import Tool
from toolgate.parts import ledger_database
from toolgate.settings import Settings

ACTIVE: Final = "active"
Named = Annotated[
    str | None,
    typer.Option(
        "--policy",
        help="A folder, `active`, or how a stored version begins.",
        show_default="the deployment's files",
    ),
]
WRONG_USE: Final = 2
_DIGEST: Final = re.compile("[0-9a-fA-F]+")


def catalog_of(root: Path, settings: Settings) -> Catalog:
    """Give the admitted tools.

    Raises:
        Misconfigured: the registry has faults.
    """
    catalog, faults = read_catalog(root, settings)
    if catalog is None:
        raise Misconfigured(faults)
    return catalog


def read_catalog(root: Path, settings: Settings) -> tuple[Catalog | None, list[Fault]]:
    """Give the admitted tools, or the registry's faults."""
    registry = Registry(root / settings.registry, root)
    try:
        return registry.read()
    finally:
        asyncio.run(registry.aclose())


def tool_called(catalog: Catalog, name: str) -> Tool:
    """Give an admitted tool.

    Raises:
        BadParameter: there is none of that name.
    """
    tool = catalog.find(name)
    if tool is None:
        known = ", ".join(sorted(one.name for one in catalog.tools)[:20])
        raise typer.BadParameter(f"there is no tool {name!r}; there are {known}", param_hint="TOOL")
    return tool


def policy_called(root: Path, settings: Settings, name: str | None) -> PolicyText:
    """Give the policy in a folder, the one in force (`active`), a stored one, or that of the deployment.

    Raises:
        Misconfigured: its files have faults.
        NothingRecorded: there is no such folder, or no such version is stored.
        LedgerUnavailable: the stored versions cannot be read.
    """
    folder = root / settings.policies if name is None else Path(name)
    if name is None or (name != ACTIVE and folder.is_dir()):
        return _read(*read_policy(folder))
    stored = StoredPolicies(ledger_database(root, settings))
    if name != ACTIVE:
        if not _DIGEST.fullmatch(name):
            raise NothingRecorded(f"there is no folder {name!r}")
        return _read(*parse_policy(stored.files(stored.named(name))))
    enforced = stored.standing().enforced
    if enforced is None:
        raise NothingRecorded("no policy has been activated yet; see: toolgate policy activate")
    return _read(*parse_policy(stored.files(enforced.digest)))


def _read(text: PolicyText | None, faults: Sequence[Fault]) -> PolicyText:
    if text is None:
        raise Misconfigured([*faults])
    return text


def callers_of(settings: Settings) -> list[Caller]:
    """Give the callers that the settings name."""
    return [named_caller(settings, name) for name in settings.callers]


def counted(count: int, one: str, many: str | None = None) -> str:
    """Count things in words."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def short(digest: str) -> str:
    """Shorten a digest for people."""
    return digest[:SHORT]


def markdown_table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Give the lines of a Markdown table; what callers wrote is kept from being markup."""
    names = list(columns)
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    return lines + [f"| {' | '.join(map(_cell, row))} |" for row in rows]


def _cell(text: str) -> str:
    if not text:
        return ""
    return "`" + printable(text).replace("`", "'").replace("|", "\\|") + "`"
