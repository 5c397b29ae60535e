"""`toolgate ledger retain`: what was kept long enough goes now, not when a gate gets to it."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from toolgate.cli.audit_read import record_read
from toolgate.cli.local import demand_owner
from toolgate.cli.output import HERE, AsJson, Root, out, print_json, table
from toolgate.cli.progress import Bar
from toolgate.core.errors import Fault, Misconfigured
from toolgate.core.record import Json
from toolgate.core.retention import RetentionRule
from toolgate.main import open_ledger
from toolgate.settings import FILE, Settings, read_settings


def retain(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is over.")] = False,  # noqa: FBT002
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002
) -> None:
    """Remove what the rules of retention say is over. The entries stay, and every proof of them."""
    demand_owner(root, "may remove what is kept")
    settings = read_settings(root)
    if not settings.retention:
        problem = "there is no rule, so all is kept for good"
        raise Misconfigured(
            [Fault(FILE, "retention", problem, "add [[retention]] tables; see docs/reference/settings.md")]
        )
    if dry_run:
        record_read(root, settings, "retain", {"dry_run": True})
        _show(settings, asyncio.run(_due(root, settings)), as_json=as_json)
        return
    removed = asyncio.run(_removed(root, settings))
    if as_json:
        print_json({"ok": True, "removed": removed})
    else:
        said = ", ".join(f"{count} {name}" for name, count in removed.items()) or "nothing is over"
        out().print(Text(f"removed: {said}" if removed else said, style="green"))


async def _due(root: Path, settings: Settings) -> list[dict[str, int]]:
    async with open_ledger(root, settings) as ledger:
        with Bar("entries") as bar:
            return [dict(counts) for counts in await ledger.retaining.due(bar.show)]


async def _removed(root: Path, settings: Settings) -> dict[str, int]:
    async with open_ledger(root, settings) as ledger:
        with Bar("entries") as bar:
            await ledger.retaining.go_on(all_names=True, show=bar.show)
        await ledger.writer.scrub()
        return dict(ledger.retaining.removed)


def _show(settings: Settings, due: list[dict[str, int]], *, as_json: bool) -> None:
    if as_json:
        rules: list[Json] = [
            {"rule": number, "says": _words(rule), "over": {**counts}}
            for number, (rule, counts) in enumerate(zip(settings.retention, due, strict=True), 1)
        ]
        print_json(rules)
        return
    rows = [
        (
            f"{number}",
            _words(rule),
            ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing",
        )
        for number, (rule, counts) in enumerate(zip(settings.retention, due, strict=True), 1)
    ]
    table("What is over", ("rule", "says", "over now"), rows)


def _words(rule: RetentionRule) -> str:
    whose = f"tenant {rule.tenant}" if rule.tenant is not None else "every tenant"
    if rule.subject is not None:
        whose += f", {rule.subject}"
    kinds = f", of {', '.join(rule.kinds)}" if rule.kinds else ""
    what = ", ".join(rule.values)
    return f"{whose}{kinds}: {what}, " + ("held" if rule.hold else f"{rule.days:g} days")
