"""`toolgate ledger erase`: what is kept of one person goes, the entries and their proofs stay."""

import asyncio
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.text import Text

from toolgate.backends.erasing import Erased
from toolgate.backends.erasing_survey import Person, Survey
from toolgate.backends.ledger_parts import LedgerParts
from toolgate.cli.audit_read import record_read
from toolgate.cli.local import demand_owner, os_person
from toolgate.cli.output import HERE, AsJson, Root, err, out, print_json, printable
from toolgate.cli.progress import Bar
from toolgate.core.errors import Fault, Misconfigured, NothingRecorded
from toolgate.core.record import Json, JsonObject
from toolgate.main import open_ledger
from toolgate.settings import FILE, Settings, read_settings

REWRITTEN: Final = 256 * 2**20
"""Bytes of a database that is made anew without being asked: calls wait for that, here a second or two."""
_TRIES, _PAUSE = 50, 0.1
"""How often, and after how many seconds, the WAL is emptied once more while somebody reads."""


@dataclass(frozen=True, kw_only=True)
class _Done:
    """What an erasure did."""

    erased: list[Erased]
    emptied: bool
    """The WAL holds nothing any more."""
    rewritten: bool
    """The database was made anew."""


def erase(  # noqa: PLR0913, PLR0917 - the options of one command
    subject: Annotated[
        str | None,
        typer.Argument(
            help="The caller's name, or pseudonym. Without it, what was begun is finished.", metavar="SUBJECT"
        ),
    ] = None,
    basis: Annotated[
        str | None,
        typer.Option("--basis", help="Why: a law, a request's number. It is recorded; name nobody."),
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Only under this tenant.")] = None,
    issuer: Annotated[str | None, typer.Option(help="Only of this issuer.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,  # noqa: FBT002
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,  # noqa: FBT002
    rewrite: Annotated[
        bool | None,
        typer.Option(
            "--rewrite/--no-rewrite",
            help="Make the database anew at the end, while calls wait; up to 256 MB it is.",
        ),
    ] = None,
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002
) -> None:
    """Erase what the ledger keeps of a person: names, values, salts, answers. No proof is lost."""
    demand_owner(root, "may erase")
    settings = read_settings(root)
    _demand_sense(subject, basis, yes=yes, dry_run=dry_run)
    record_read(root, settings, "erase", {"dry_run": dry_run})
    if subject is None:
        _say(asyncio.run(_finished(root, settings, rewrite=rewrite)), as_json=as_json)
        return
    seen = asyncio.run(_surveyed(root, settings, subject, tenant, issuer))
    _demand_no_hold(settings, seen.person)
    if not as_json or dry_run:
        _preview(seen, as_json=as_json)
    if dry_run:
        return
    if not yes:
        typer.confirm("Erase this? It cannot be undone.", abort=True, err=True)
    done = asyncio.run(_erased(root, settings, seen, basis or "", rewrite=rewrite))
    _say(done, as_json=as_json)


def _demand_sense(subject: str | None, basis: str | None, *, yes: bool, dry_run: bool) -> None:
    if subject is None and (basis is not None or dry_run):
        raise typer.BadParameter(
            "say whom to erase; without a name, what was begun is finished", param_hint="SUBJECT"
        )
    if subject is None or dry_run:
        return
    if basis is None or not basis.strip():
        raise typer.BadParameter("say why: a law, a request's number; it is recorded", param_hint="--basis")
    if subject.casefold() in basis.casefold():
        raise typer.BadParameter(
            "it names who is erased, and would be kept; say the request's number, say", param_hint="--basis"
        )
    if not yes and not sys.stdin.isatty():
        raise typer.BadParameter(
            "nobody can be asked here; say --yes, or --dry-run first", param_hint="--yes"
        )


async def _surveyed(
    root: Path, settings: Settings, subject: str, tenant: str | None, issuer: str | None
) -> Survey:
    """Finish what was begun, then look at what is kept of one person."""
    async with open_ledger(root, settings) as ledger:
        with Bar("entries") as bar:
            finished = await ledger.erasing.go_on(bar.show)
        found = await ledger.erasing.people(subject, tenant=tenant, issuer=issuer)
        if not found and finished:
            await _clean(root, settings, ledger, rewrite=None)
            raise NothingRecorded(
                f"what was begun by entry {finished[-1].begun} is finished now (entry {finished[-1].done}); "
                "nobody of that name is known any more"
            )
        person = _the_one(found)
        with Bar("entries") as bar:
            return await ledger.erasing.survey(person, bar.show)


def _the_one(found: list[Person]) -> Person:
    if not found:
        raise NothingRecorded(
            "nobody of that name is known: it is spelled otherwise, of another tenant or issuer, or erased "
            "already; see: toolgate ledger query top-callers"
        )
    if len(found) > 1:
        which = "; ".join(f"--tenant {one.tenant} --issuer {one.issuer}" for one in found)
        raise NothingRecorded(f"there are {len(found)} of that name; say which: {which}")
    return found[0]


def _demand_no_hold(settings: Settings, person: Person) -> None:
    for number, rule in enumerate(settings.retention, 1):
        if rule.holds(person.tenant, person.subject):
            problem = "it holds what is kept of this person"
            remedy = "when nothing demands that any more, remove the rule, then erase"
            raise Misconfigured([Fault(FILE, f"retention, rule {number}", problem, remedy)])


async def _erased(root: Path, settings: Settings, seen: Survey, basis: str, *, rewrite: bool | None) -> _Done:
    person = os_person()
    async with open_ledger(root, settings) as ledger:
        await ledger.endings.take_back()
        by = await ledger.pseudonyms.of("subject", person, person.subject)
        begun = await ledger.erasing.begin(seen, by=by, basis=basis)
        err().print(
            Text(f"begun (ledger entry {begun.entry}); if this is interrupted: toolgate ledger erase")
        )
        return await _finish(root, settings, ledger, rewrite=rewrite)


async def _finished(root: Path, settings: Settings, *, rewrite: bool | None) -> _Done:
    async with open_ledger(root, settings) as ledger:
        return await _finish(root, settings, ledger, rewrite=rewrite)


async def _finish(root: Path, settings: Settings, ledger: LedgerParts, *, rewrite: bool | None) -> _Done:
    with Bar("entries") as bar:
        erased = await ledger.erasing.go_on(bar.show)
    await ledger.writer.publish()
    return await _clean(root, settings, ledger, rewrite=rewrite, erased=erased)


async def _clean(
    root: Path,
    settings: Settings,
    ledger: LedgerParts,
    *,
    rewrite: bool | None,
    erased: list[Erased] | None = None,
) -> _Done:
    """Leave nothing that was deleted in the database's files."""
    on_server = settings.database_url is not None
    small = not on_server and (root / settings.database).stat().st_size <= REWRITTEN
    rewritten = small if rewrite is None else rewrite
    emptied = await ledger.writer.scrub(rewrite=rewritten)
    for _ in range(_TRIES):
        if emptied or on_server:
            break
        await asyncio.sleep(_PAUSE)
        emptied = await ledger.writer.scrub()
    return _Done(erased=erased or [], emptied=emptied, rewritten=rewritten)


def _preview(seen: Survey, *, as_json: bool) -> None:
    person, kept = seen.person, seen.kept
    if as_json:
        print_json({"ok": True, "tenant": person.tenant, "issuer": person.issuer, "found": asdict(kept)})
        return
    out().print(
        Text(
            printable(
                f"{person.subject} (tenant {person.tenant}, issuer {person.issuer}): {kept.entries} entries "
                f"speak of them. To remove: the name, {kept.values} values with their salts, and what "
                f"{kept.answers} claims keep. The entries themselves stay, and every proof of them."
            )
        )
    )


def _say(done: _Done, *, as_json: bool) -> None:
    if as_json:
        erased: list[Json] = [asdict(one) for one in done.erased]
        document: JsonObject = {"ok": True, "erased": erased, "wal_emptied": done.emptied}
        still: list[Json] = [*_STILL]
        print_json(document | {"rewritten": done.rewritten, "still_in": still})
        return
    for one in done.erased:
        entries = f"ledger entries {one.begun}, {one.done}"
        said = f"erased: {one.values} values and what {one.answers} claims kept ({entries})"
        out().print(Text(said, style="green"))
        if one.waiting:
            out().print(
                f"{one.waiting} calls are in doubt: what they asked for stays until they are settled, then "
                "it goes by itself. See: toolgate calls list --unknown"
            )
    if not done.erased:
        out().print("no erasure is open")
        return
    if not done.emptied:
        out().print(
            Text(
                "the database's files still hold it: somebody reads the SQLite file (run this again: "
                "toolgate ledger erase), or this role may not clean PostgreSQL's tables (let their owner "
                "run: VACUUM (FULL, ANALYZE) payload, pseudonym, claim)",
                style="red",
            )
        )
    if not done.rewritten:
        out().print(
            "The database was not made anew: fragments may lie between other rows. "
            "When calls can wait: toolgate ledger erase --rewrite"
        )
    out().print("It may still be in:")
    for place in _STILL:
        out().print(f"  - {place}")


_STILL: Final = (
    "backups and copies of the database, snapshots of its disk, free blocks of its file system",
    "exports, bundles and reports that were made before, and what a SIEM got",
    "the systems that the calls went to, and their logs",
    "logs of proxies, of the vault, and of whoever issues tokens",
)
"""Where no command of ours reaches."""
