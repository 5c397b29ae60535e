"""What `activate` and `rollback` share: the very texts that were checked and tested are then stored."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.text import Text

from toolgate.backends.policy.case_files import read_cases
from toolgate.backends.policy.cases import Tested, run_cases
from toolgate.backends.policy.reading import parse_policy
from toolgate.backends.policy.text import PolicyText
from toolgate.backends.policy_stored import SHORT, StoredPolicies
from toolgate.backends.policy_versions import Asked, PolicyVersions, Put, Recorded
from toolgate.cli.local import demand_owner, os_person
from toolgate.cli.output import err, out, print_json, print_places, printable
from toolgate.cli.policy_parts import catalog_of
from toolgate.cli.policy_warnings import print_warnings, warnings_of
from toolgate.core.errors import Fault, Misconfigured
from toolgate.main import now, open_ledger
from toolgate.parts import ledger_database
from toolgate.rulebooks import misfits
from toolgate.settings import Settings

DEED: Final = "may say which policy is in force"
Override = Annotated[
    str | None,
    typer.Option("--override", metavar="REASON", help="Though cases fail or are missing. It is recorded."),
]
_SAID: Final[Mapping[Put, str]] = {
    "activated": "is activated",
    "rolled_back": "is in force again",
    "shadowed": "is in shadow: judged beside the one in force, and never enforced",
}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A version that may be activated, with what its cases say."""

    text: PolicyText
    tested: Tested
    warnings: tuple[Fault, ...]
    """What is most likely not meant. It is told, and keeps nothing from being activated."""


def candidate(
    root: Path, settings: Settings, files: Mapping[str, str], unread: Sequence[Fault] = ()
) -> Candidate:
    """Check and test `files` against today's registry.

    Raises:
        Misconfigured: with everything that `serve` would refuse; no override helps.
    """
    text, faults = parse_policy(files)
    catalog = catalog_of(root, settings)
    faults = [*unread, *faults, *misfits(text, catalog)]
    if text is None or faults:
        raise Misconfigured(faults)
    warnings = warnings_of(text, catalog.tools, settings, read_cases(text, catalog.tools))
    return Candidate(text=text, tested=run_cases(text, catalog.tools), warnings=tuple(warnings))


def demand_reason(because: str | None) -> None:
    """Refuse an override of which nobody says why.

    Raises:
        BadParameter: the reason is empty.
    """
    if because is not None and not because.strip():
        raise typer.BadParameter("say why; it is recorded", param_hint="--override")


def put_in_place(  # noqa: PLR0913 - what one command was told
    root: Path,
    settings: Settings,
    found: Candidate,
    put: Put,
    because: str | None,
    *,
    instead_of: str | None = None,
    as_json: bool,
) -> None:
    """Activate what was found, and say so. Exits 1 when its cases fail and nobody overrides that."""
    demand_owner(root, DEED)
    if not as_json:
        print_warnings(found.warnings)
    reason = None if found.tested.ok else because
    recorded = _standing_so(root, settings, found, put)
    if recorded is None:
        if reason is None and not found.tested.ok:
            _refuse(found.tested, as_json=as_json)
        recorded = asyncio.run(_recorded(root, settings, found, put, reason, instead_of))
    if recorded is None:
        problem = "another version was activated meanwhile"
        raise Misconfigured(
            [Fault("policies", "activation", problem, "look again: toolgate policy versions")]
        )
    if as_json:
        _print_json(found, put, recorded, override=reason is not None)
    else:
        _print(found, put, recorded, override=reason is not None)
        _say_where(settings)


def _standing_so(root: Path, settings: Settings, found: Candidate, put: Put) -> Recorded | None:
    """Say which entry gave the version this place already; None when it is not there."""
    standing = StoredPolicies(ledger_database(root, settings)).standing()
    place = standing.shadow if put == "shadowed" else standing.enforced
    if place is None or place.digest != found.text.digest:
        return None
    return Recorded(entry=place.entry, previous=place.digest, fresh=False)


async def _recorded(
    root: Path,
    settings: Settings,
    found: Candidate,
    put: Put,
    because: str | None,
    instead_of: str | None,
) -> Recorded | None:
    person = os_person()
    async with open_ledger(root, settings) as ledger:
        by = await ledger.pseudonyms.of("subject", person, person.subject)
        asked = Asked(
            digest=found.text.digest,
            files=found.text.files,
            by=by,
            cases=found.tested.passed,
            because=because,
        )
        versions = PolicyVersions(ledger.writer, ledger.entries, now=now)
        return await versions.activate(asked, put, instead_of=instead_of)


def _refuse(tested: Tested, *, as_json: bool) -> None:
    """Say which cases fail or are missing, and end."""
    lacking = [
        Fault(f"policies/{gap.rule.file}", f"line {gap.rule.line}", _lacks(gap.rule.id, gap.missing), _EXCUSE)
        for gap in tested.uncovered
    ]
    failing = [
        Fault(
            f"policies/{failure.case.file}",
            printable(failure.case.place),
            printable(f"expected {failure.expected}; got {failure.got}"),
            "see why: toolgate policy test",
        )
        for failure in tested.failures
    ]
    faults = [*tested.faults, *failing, *lacking]
    if as_json:
        print_json({"ok": False, "faults": [vars(fault) for fault in faults]})
    else:
        print_places(faults)
        said = f"{len(faults)} things are wrong with the cases; nothing was activated."
        err().print(Text(said, style="red"))
    raise typer.Exit(1)


def _lacks(rule: str, missing: Sequence[str]) -> str:
    return f"rule {rule} needs {' and '.join(missing)}"


def _print(found: Candidate, put: Put, recorded: Recorded, *, override: bool) -> None:
    name = found.text.digest[:SHORT]
    if not recorded.fresh:
        stands = "in shadow" if put == "shadowed" else "active"
        out().print(
            f"policy {name} is {stands} already (ledger entry {recorded.entry}); nothing was written."
        )
        return
    if override:
        said = f" OVERRIDE: policy {name} does not pass its cases. The reason is recorded. "
        err().print(Text(said, style="bold white on red"))
    instead = f", in the place of {recorded.previous[:SHORT]}" if recorded.previous else ""
    cases = f"{found.tested.passed} of {len(found.tested.cases)} cases passed"
    said = f"policy {name} {_SAID[put]}{instead} ({cases}; ledger entry {recorded.entry})."
    out().print(Text(said, style="green"))


def _say_where(settings: Settings) -> None:
    if settings.mode == "dev":
        err().print("In dev mode a gate goes by the files on the disk, whatever is activated.")


def _print_json(found: Candidate, put: Put, recorded: Recorded, *, override: bool) -> None:
    print_json(
        {
            "ok": True,
            "status": put,
            "policy": found.text.digest,
            "previous": recorded.previous or None,
            "cases": found.tested.passed,
            "override": override,
            "entry": recorded.entry,
            "written": recorded.fresh,
            "warnings": [vars(fault) for fault in found.warnings],
        }
    )


_EXCUSE: Final = "add the cases, or say why not under [uncovered] in a file of cases"
