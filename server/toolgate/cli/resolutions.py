"""`toolgate calls reconcile` and `resolve`: what became of a call, as its system or a person says."""

import asyncio
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import typer
from rich.text import Text

from toolgate.backends.sql_records import SqlRecords
from toolgate.cli.json_option import json_object
from toolgate.cli.local import demand_owner, os_person
from toolgate.cli.output import HERE, AsJson, Root, out, print_json
from toolgate.core.arguments import out_of_bounds
from toolgate.core.claims import Doubtful
from toolgate.core.errors import Fault, Misconfigured, NothingRecorded
from toolgate.core.outcome import Done
from toolgate.core.record import JsonObject
from toolgate.core.tool import Tool
from toolgate.main import House, open_house
from toolgate.parts import ledger_database

_MOST: Final = 10_000

Found = Literal["found", "not_found", "cannot_tell", "not_asked"]
CallId = Annotated[str, typer.Argument(help="The call's id.", metavar="CALL")]


@dataclass(frozen=True)
class Reconciled:
    """What came of asking about one call."""

    call_id: str
    tool: str
    found: Found
    settled: bool
    detail: str


def reconcile(
    call_id: Annotated[str | None, typer.Argument(help="The call's id.", metavar="CALL")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All unknown calls.")] = False,  # noqa: FBT002
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002
) -> None:
    """Ask the system what became of an unknown call. Nothing is sent again.

    Exits 0 when it is settled, 1 when there is no such unknown call, 3 when it is still unknown.
    """
    if (call_id is None) != all_:
        raise typer.BadParameter("name a call, or say --all", param_hint="CALL")
    demand_owner(root, "may settle calls")
    asked = asyncio.run(_reconciled(root, call_id))
    if as_json:
        print_json([asdict(one) for one in asked] if all_ else asdict(asked[0]))
    else:
        for one in asked:
            style = "green" if one.settled else "red"
            out().print(Text(f"{one.call_id} ({one.tool}): {one.found}. {one.detail}", style=style))
        if not asked:
            out().print("no call is unknown")
    if not all(one.settled for one in asked):
        raise typer.Exit(3)


def resolve(  # noqa: PLR0913, PLR0917 - the options of one command
    call_id: CallId,
    because: Annotated[str, typer.Option("--because", help="How you know it. It is recorded.")],
    done: Annotated[bool, typer.Option("--done", help="It took effect; say --result too.")] = False,  # noqa: FBT002
    result: Annotated[str | None, typer.Option("--result", help="Its result, a JSON object.")] = None,
    nothing_done: Annotated[bool, typer.Option("--nothing-done", help="It had no effect.")] = False,  # noqa: FBT002
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002
) -> None:
    """Say what became of an unknown call, when only a person can find out. It is recorded who said so."""
    if done == nothing_done:
        raise typer.BadParameter("say either --done or --nothing-done", param_hint="--done")
    if done != (result is not None):
        raise typer.BadParameter("it belongs to --done, and --done needs it", param_hint="--result")
    if not because.strip():
        raise typer.BadParameter("say how you know it", param_hint="--because")
    demand_owner(root, "may settle calls")
    value = None if result is None else json_object(result, "--result")
    entry = asyncio.run(_resolved(root, call_id, value, because))
    if as_json:
        print_json({"ok": True, "call_id": call_id, "done": done, "entry": entry})
        return
    said = "done" if done else "nothing done; it may be asked again under the same key"
    out().print(Text(f"{call_id} is resolved: {said} (ledger entry {entry})", style="green"))


async def _reconciled(root: Path, call_id: str | None) -> list[Reconciled]:
    async with open_house(root) as house:
        if call_id is not None:
            return [await _ask(house, await _unknown(house, call_id))]
        records = SqlRecords(ledger_database(root, house.settings))
        # Whether one in progress is lost is for the ledger to say, which then knows its tool's quiet period.
        known = records.doubtful(most=_MOST, subject=None, tool=None, is_lost=lambda _owner, _until: True)
        find = house.in_force.rulebook.catalog.find
        doubtful = [await house.ledger.doubts.of_call(call.call_id, find) for call in known]
        return [await _ask(house, one) for one in doubtful if one is not None]


async def _ask(house: House, doubtful: Doubtful) -> Reconciled:
    """Ask the system about one call, where that can be done."""
    earlier = doubtful.earlier
    tool = house.in_force.rulebook.catalog.find(doubtful.tool)
    if reason := _why_not(doubtful, tool):
        return Reconciled(earlier.call_id, doubtful.tool, "not_asked", settled=False, detail=reason)
    if tool is None or doubtful.call is None:
        raise TypeError("what cannot be asked has a reason")
    finding = await house.gateway.reconciler.find_out(doubtful.call, tool, earlier)
    settled = await house.ledger.doubts.of_call(earlier.call_id, house.in_force.rulebook.catalog.find) is None
    detail = _SETTLED[finding.verdict] if settled else _OPEN[finding.verdict]
    until = f"{earlier.until:%Y-%m-%d %H:%M:%S}"
    return Reconciled(
        earlier.call_id, tool.name, finding.verdict, settled=settled, detail=detail.format(until=until)
    )


def _why_not(doubtful: Doubtful, tool: Tool | None) -> str | None:
    if tool is None:
        return f"Its tool is not admitted any more. {_BY_HAND}"
    match tool.terms.duplicates:
        case "key" | "natural":
            return (
                "Nothing was sent now. This system takes a repetition for one and the same: when the caller "
                "asks again under the same key, it is sent again safely, and the answer settles it. "
                f"Where the caller does not: {_BY_HAND[0].lower()}{_BY_HAND[1:]}"
            )
        case "none":
            return f"This system cannot be asked. {_BY_HAND}"
        case "query":
            return (
                None if doubtful.call is not None else f"Who asked for what is not kept any more. {_BY_HAND}"
            )


async def _resolved(root: Path, call_id: str, value: JsonObject | None, because: str) -> int:
    async with open_house(root) as house:
        outcome = None
        if value is not None:
            doubtful = await _unknown(house, call_id)
            outcome = _as_result(house.in_force.rulebook.catalog.find(doubtful.tool), doubtful, value)
        person = os_person()
        by = await house.ledger.pseudonyms.of("subject", person, person.subject)
        return await house.ledger.doubts.resolve(call_id, outcome, by=by, because=because)


async def _unknown(house: House, call_id: str) -> Doubtful:
    doubtful = await house.ledger.doubts.of_call(call_id, house.in_force.rulebook.catalog.find)
    if doubtful is None:
        raise NothingRecorded(f"there is no unknown call {call_id}; see: toolgate calls list --unknown")
    return doubtful


def _as_result(tool: Tool | None, doubtful: Doubtful, value: JsonObject) -> Done:
    """Take `value` for the result of the call: whoever repeats it gets just this."""
    if tool is None:
        problem = f"{doubtful.tool} is not admitted any more, so its result cannot be checked"
        raise Misconfigured([Fault("registry", doubtful.tool, problem, "admit it again, then resolve")])
    if fault := out_of_bounds(value) or tool.output.fault_in(value):
        raise typer.BadParameter(f"no result of {tool.name}: {fault}", param_hint="--result")
    return Done(value=value)


_BY_HAND: Final = "Look in the system itself, then say what you found: toolgate calls resolve."
_SETTLED: Final = {
    "found": "It took effect; whoever repeats it under its key gets the result.",
    "not_found": "Nothing was done; it may be asked again under the same key.",
    "cannot_tell": "It was settled meanwhile.",
}
_OPEN: Final = {
    "found": "It is still unknown.",
    "not_found": "The system has nothing of it yet; that is conclusive from {until} UTC on, and when the "
    "process that sent it has ended. Ask again then.",
    "cannot_tell": "The system cannot tell now, or was asked a moment ago. Ask later, or look yourself.",
}
