"""`toolgate leases`: credentials that may still live, and their end."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic_core import to_jsonable_python
from rich.text import Text

from toolgate.backends.lease_records import LeaseRecords, LivingLease
from toolgate.backends.owed import Owed, OwedLease
from toolgate.cli.audit_read import record_read
from toolgate.cli.leases_reconcile import reconcile
from toolgate.cli.local import demand_owner, os_person
from toolgate.cli.output import HERE, AsJson, Root, err, out, print_json, printable, table
from toolgate.cli.progress import Bar
from toolgate.core.errors import LedgerUnavailable, NothingRecorded
from toolgate.main import House, open_house
from toolgate.parts import ledger_database
from toolgate.settings import Settings, read_settings

app = typer.Typer(help="Look at credentials that were lent, and end them.", no_args_is_help=True)
app.command()(reconcile)

_LONGEST: Final = 12
"""Characters of an id that tell it from others."""
_SHORTEST: Final = 4
_PAUSE: Final = 0.2
"""Seconds between two looks at what is left."""
_MOST_NAMED: Final = 20


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What shall be ended: all that every selector given selects."""

    ids: tuple[str, ...]
    subject: str | None
    tenant: str | None
    run: str | None
    tool: str | None

    def among(self, living: Sequence[LivingLease]) -> list[LivingLease]:
        """Give what is selected, and what ends with it.

        Raises:
            NothingRecorded: nothing is.
        """
        found = [one for one in living if self._fits(one)]
        if self.ids:
            found = [_of_id(name, found) for name in self.ids]
        if not found:
            raise NothingRecorded(self._why_nothing(living))
        ids, runs = {one.id for one in found}, {one.accessor for one in found if one.kind == "run"}
        return [one for one in living if one.id in ids or one.accessor in runs]

    def _fits(self, one: LivingLease) -> bool:
        return (
            self.subject in {None, one.subject}
            and self.tenant in {None, one.tenant}
            and (self.run is None or one.run == self.run != "")
            and self.tool in {None, one.tool}
        )

    def _why_nothing(self, living: Sequence[LivingLease]) -> str:
        said = (("subject", self.subject), ("tenant", self.tenant), ("run", self.run), ("tool", self.tool))
        asked = [f"{name} {value!r}" for name, value in said if value is not None]
        there = [_known(name, living) for name, value in said if value is not None]
        if not living:
            return "nothing may still live; there is nothing to revoke"
        return f"nothing of {' and '.join(asked)} may still live; there is something of {'; '.join(there)}"


@app.command("list")
def list_(root: Root = HERE, as_json: AsJson = False) -> None:  # noqa: FBT002 - a command's flag
    """Give the leases and run tokens that may still live, oldest first."""
    settings = read_settings(root)
    record_read(root, settings, "leases list", {})
    living = _records(root, settings).living()
    if as_json:
        print_json(to_jsonable_python(living))
        return
    columns = ("id", "tool", "who", "run", "scope", "issued (UTC)", "ends (UTC)", "state")
    table("Leases and run tokens that may still live, oldest first", columns, [_row(one) for one in living])


@app.command()
def revoke(  # noqa: PLR0913, PLR0917 - the options of one command
    lease: Annotated[
        list[str] | None, typer.Argument(help="Ids, as `leases list` shows them.", metavar="LEASE...")
    ] = None,
    subject: Annotated[str | None, typer.Option(help="All of this subject.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only of this tenant.")] = None,
    run: Annotated[str | None, typer.Option(help="All of this run.")] = None,
    tool: Annotated[str | None, typer.Option(help="All leases of this tool.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All that may still live.")] = False,  # noqa: FBT002
    wait: Annotated[float, typer.Option(help="Seconds to wait until it is done.", min=0, max=3600)] = 10,
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """End leases now, and record who wanted it. A run is ended as a whole, by its one token.

    What was lent is gone then, with open database sessions; what may be lent again is for the policy to say.
    Exits 0 when all has ended, 1 when nothing was selected, 3 when some has still to be ended: a gate that
    runs goes on trying, and at its time it lapses.
    """
    selectors = (bool(lease), subject or run or tool, all_)
    if sum(map(bool, selectors)) != 1:
        problem = "name leases, or say what to select: --subject, --run, --tool, or --all"
        raise typer.BadParameter(problem, param_hint="LEASE")
    demand_owner(root, "may revoke leases")
    settings = read_settings(root)
    wanted = Wanted(ids=tuple(lease or ()), subject=subject, tenant=tenant, run=run, tool=tool)
    chosen = wanted.among(_records(root, settings).living())
    left = asyncio.run(_revoked(root, settings, chosen, wait))
    _print_revoked(chosen, left, as_json=as_json)
    if left:
        raise typer.Exit(3)


async def _revoked(
    root: Path, settings: Settings, chosen: Sequence[LivingLease], wait: float
) -> list[LivingLease]:
    """Record that these shall end, and see to it; gives those that have not."""
    records = _records(root, settings)
    async with open_house(root) as house:
        book, person = house.ledger.leases, os_person()
        by = await house.ledger.pseudonyms.of("subject", person, person.subject)
        await book.shall_end(_to_end(chosen, (await book.living()).found), by)
        here = not _opens_once(settings) or not records.gates(but=house.ledger.writer.owners.me)
        keeping = asyncio.ensure_future(_keep_on(house)) if here else None
        try:
            return await _waited(records, {one.id for one in chosen}, wait)
        finally:
            if keeping is not None:
                keeping.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await keeping


async def _keep_on(house: House) -> None:
    """Do what a gate does for leases, as long as it is waited for."""
    while True:
        with contextlib.suppress(LedgerUnavailable):  # who waits sees that nothing ends
            await house.lending.keep()
        await asyncio.sleep(1)


def _records(root: Path, settings: Settings) -> LeaseRecords:
    return LeaseRecords(ledger_database(root, settings), Path(f"{root / settings.database}.writers"))


async def _waited(records: LeaseRecords, ids: set[str], wait: float) -> list[LivingLease]:
    give_up = time.monotonic() + wait
    with Bar("ending leases") as bar:
        while True:
            left = [one for one in await asyncio.to_thread(records.living) if one.id in ids]
            if not left or time.monotonic() >= give_up:
                return left
            bar.show(len(ids) - len(left), len(ids))
            await asyncio.sleep(_PAUSE)


def _opens_once(settings: Settings) -> bool:
    """Whether to sign in here would use up, or find used, what a gate that runs has signed in with."""
    vault = settings.vault
    return vault is not None and vault.sign_in == "approle" and vault.wrapped


def _to_end(chosen: Sequence[LivingLease], found: Sequence[Owed]) -> list[Owed]:
    """Give the rows of what is chosen, without leases that end with their run's token."""
    runs = {one.accessor for one in chosen if one.kind == "run"}
    ids = {one.id for one in chosen if one.kind == "run" or one.accessor not in runs}
    return [one for one in found if (one.id if isinstance(one, OwedLease) else one.accessor) in ids]


def _of_id(name: str, living: Sequence[LivingLease]) -> LivingLease:
    """Find the one that `name` means: its id, or how the id's last part begins."""
    last = [one for one in living if len(name) >= _SHORTEST and _last_part(one.id).startswith(name)]
    found = [one for one in living if one.id == name] or last
    if not found:
        raise NothingRecorded(f"nothing of the id {name!r} may still live; see: toolgate leases list")
    if len(found) > 1:
        raise typer.BadParameter(f"{name!r} begins several ids; say more of it", param_hint="LEASE")
    return found[0]


def _known(name: str, living: Sequence[LivingLease]) -> str:
    """Say of which subjects, runs, or tools there is anything."""
    said = {
        f"{one.subject} ({one.tenant})" if name == "subject" else str(getattr(one, name)) for one in living
    }
    named = sorted(said - {""})
    more = f" and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
    return f"{name}s: {', '.join(named[:_MOST_NAMED]) or 'none'}{more}"


def _print_revoked(chosen: Sequence[LivingLease], left: Sequence[LivingLease], *, as_json: bool) -> None:
    ended = [one for one in chosen if one.id not in {other.id for other in left}]
    if as_json:
        print_json(to_jsonable_python({"ok": not left, "ended": ended, "left": left}))
        return
    if ended:
        out().print(Text(f"{_counted(ended)} ended", style="green"))
    for one in left:
        when = f"still to be ended; it lapses at {_second(one.ends_at)} UTC"
        err().print(Text(printable(f"{_short(one.id)} of {one.subject} ({one.tenant}): {when}"), style="red"))


def _counted(some: Sequence[LivingLease]) -> str:
    """Count in words: `2 leases and 1 run token have`."""
    runs = sum(one.kind == "run" for one in some)
    parts = [(len(some) - runs, "lease"), (runs, "run token")]
    said = " and ".join(f"{count} {noun}{'s' if count != 1 else ''}" for count, noun in parts if count)
    return f"{said} {'has' if len(some) == 1 else 'have'}"


def _row(one: LivingLease) -> tuple[str, ...]:
    who, times = f"{one.subject} ({one.tenant})", (_second(one.issued_at), _second(one.ends_at))
    tool = "(run token)" if one.kind == "run" else one.tool
    return _short(one.id), tool, who, one.run, one.scope, *times, one.state


def _short(id_: str) -> str:
    return _last_part(id_)[:_LONGEST]


def _last_part(id_: str) -> str:
    return id_.rpartition("/")[2]


def _second(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M:%S}"
