"""`toolgate policy activate`: puts the files under `policies/` in force, when they pass what they have to."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from toolgate.backends.policy.reading import read_files
from toolgate.backends.policy_stored import SHORT
from toolgate.backends.policy_versions import PolicyVersions, Recorded
from toolgate.cli.local import demand_owner, os_person
from toolgate.cli.output import HERE, AsJson, Root, out, print_json
from toolgate.cli.policy_activation import DEED, Override, candidate, demand_reason, put_in_place
from toolgate.main import now, open_ledger
from toolgate.settings import Settings, read_settings


def activate(
    shadow: Annotated[  # noqa: FBT002 - a command's flag
        bool, typer.Option("--shadow", help="Only to watch: judged beside the policy in force.")
    ] = False,
    end_shadow: Annotated[  # noqa: FBT002 - a command's flag
        bool, typer.Option("--end-shadow", help="End the shadow; the files do not matter.")
    ] = False,
    override: Override = None,
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """Check and test the policy's files, store them as a version, and put that in force.

    Gates in production mode take it up within a second. Exits 1 when a file has a fault or a case fails.
    """
    if end_shadow and (shadow or override is not None):
        raise typer.BadParameter("it goes with no other", param_hint="--end-shadow")
    demand_reason(override)
    settings = read_settings(root)
    if end_shadow:
        _end_shadow(root, settings, as_json=as_json)
        return
    files, unread = read_files(root / settings.policies)
    found = candidate(root, settings, files, unread)
    put_in_place(root, settings, found, "shadowed" if shadow else "activated", override, as_json=as_json)


def _end_shadow(root: Path, settings: Settings, *, as_json: bool) -> None:
    demand_owner(root, DEED)
    ended = asyncio.run(_ended(root, settings))
    if as_json:
        entry, policy = (ended.entry, ended.previous) if ended else (None, None)
        print_json({"ok": True, "status": "shadow_ended", "policy": policy, "entry": entry})
    elif ended is None:
        out().print("no policy is in shadow; nothing was written.")
    else:
        said = f"policy {ended.previous[:SHORT]} is no longer in shadow (ledger entry {ended.entry})."
        out().print(Text(said, style="green"))


async def _ended(root: Path, settings: Settings) -> Recorded | None:
    person = os_person()
    async with open_ledger(root, settings) as ledger:
        by = await ledger.pseudonyms.of("subject", person, person.subject)
        return await PolicyVersions(ledger.writer, ledger.entries, now=now).end_shadow(by)
