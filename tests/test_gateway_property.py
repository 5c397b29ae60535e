"""The gateway under arbitrary outcomes, faults and hang-ups: the design's table, and at most once."""

import asyncio
import tempfile
from pathlib import Path
from typing import get_args

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.gate_on_scripted_system import Behaviour, Rig, Step, rig
from toolgate.backends.ledger_database import SqliteFile
from toolgate.backends.sql_records import SqlRecords
from toolgate.core.outcome import Answer, Done, Failed, InputRequired, Refused, Unknown

KEY = "one-key-for-all-its-attempts"
behaviours = st.sampled_from(get_args(Behaviour))
steps = st.sets(st.sampled_from(get_args(Step)), max_size=2)
amounts = st.sampled_from([1, 100, 101, "seven"])
hang_ups = st.sampled_from(["never", "before the send", "after the send"])


@example("desk.write", "does", set(), 1, True, False, "never")
@example("desk.write", "does", set(), 1, True, False, "before the send")
@example("desk.destroy", "does", set(), 1, True, False, "after the send")
@example("desk.read", "does", set(), 1, False, False, "before the send")
@example("desk.write", "unknown", set(), 1, True, False, "never")
@example("desk.write", "bug after send", set(), 1, True, False, "after the send")
@example("desk.write", "does", {"close"}, 1, True, False, "never")
@example("desk.write", "does", {"remember"}, 1, True, False, "never")
@settings(max_examples=150, deadline=None)
@given(
    tool=st.sampled_from(["desk.read", "desk.write", "desk.destroy", "desk.nothing"]),
    behaviour=behaviours,
    failing=steps,
    amount=amounts,
    keyed=st.booleans(),
    empty=st.booleans(),
    hang_up=hang_ups,
)
def test_an_outcome_says_what_happened_to_the_world_and_a_key_has_one_effect(
    tool: str,
    behaviour: Behaviour,
    failing: set[Step],
    amount: object,
    keyed: bool,
    empty: bool,
    hang_up: str,
) -> None:
    async def story(folder: Path) -> None:
        async with rig(folder, seconds=0.15) as gate:
            gate.desk.behaviour, gate.ledger.failing, gate.purse.empty = behaviour, failing, empty
            gate.desk.remembers = tool != "desk.read"
            key = KEY if keyed else None
            expected = _expected(tool, behaviour, failing, amount, empty=empty)
            first = await _call(gate, tool, amount, key, hang_up)
            if first is not None:
                assert (first.outcome.kind, getattr(first.outcome, "code", "")) in expected
                _agrees_with_the_world(first, gate, failing)
            elif "close" not in failing:
                _recorded_like(folder, expected, gone_before_send=hang_up == "before the send")
            effects = gate.desk.effects
            assert effects <= 1
            await _asked_again(gate, tool, amount, first, keyed=keyed)
            if effects and keyed and tool != "desk.read":
                assert gate.desk.effects == 1, "a key never has a second effect"
        _recorded(folder, gate, failing)

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(story(Path(folder)))


Ends = set[tuple[str, str]]


def _expected(tool: str, behaviour: Behaviour, failing: set[Step], amount: object, *, empty: bool) -> Ends:
    """The design's table: what a call must end as, from what it is given."""
    if refusal := _refusal(tool, amount):
        return {("failed", "ledger_unavailable")} if "refuse" in failing else {("refused", refusal)}
    if "open" in failing:
        return {("failed", "ledger_unavailable")}
    ends = {("failed", "no_credential")} if empty else _ends(tool, behaviour, failing)
    return {("unknown", "end_not_recorded")} if "close" in failing else ends


def _refusal(tool: str, amount: object) -> str:
    if tool == "desk.nothing":
        return "unknown_tool"
    if amount == "seven":
        return "bad_arguments"
    return "forbidden" if tool == "desk.write" and amount == 101 else ""


def _ends(tool: str, behaviour: Behaviour, failing: set[Step]) -> Ends:
    in_doubt = "failed" if tool == "desk.read" else "unknown"
    match behaviour:
        case "bug before send":
            return {("failed", "adapter_error")}
        case "refuses":
            return {("failed", "busy")}
        case _ if "remember" in failing and tool != "desk.read":
            return {("failed", "ledger_unavailable")}
        case "does":
            return {("done", "")}
        case "asks after the send":
            return {
                ("input_required", "input_required") if tool == "desk.read" else (in_doubt, "adapter_error")
            }
        case "bug after send":
            return {(in_doubt, "adapter_error")}
        case "unknown":
            return {(in_doubt, "upstream_unknown")}
        case "hangs":
            return {(in_doubt, "timeout")}
        case "bad result":
            return {(in_doubt, "bad_result"), (in_doubt, "adapter_error")}


def _recorded_like(folder: Path, expected: Ends, *, gone_before_send: bool) -> None:
    """A caller that hung up got no answer; the ledger says the same that it would have been told."""
    (call,) = SqlRecords(SqliteFile(folder / "ledger.db")).calls(most=5, subject=None, tool=None)
    ends = {code or "done" for _, code in expected}
    if gone_before_send and not ends & {"busy", "adapter_error", "ledger_unavailable"}:
        ends = {"cancelled_before_send"}
    if gone_before_send and "adapter_error" in ends:
        ends |= {"cancelled_before_send"}
    assert call.end in ends


async def _call(gate: Rig, tool: str, amount: object, key: str | None, hang_up: str) -> Answer | None:
    """Make a call; a caller that hangs up gets no answer, and the call still reaches its end."""
    if hang_up == "never":
        return await gate.call(tool, amount, key=key)
    gate.desk.hold = asyncio.Event()
    calling = asyncio.ensure_future(gate.call(tool, amount, key=key))
    at_work = asyncio.ensure_future(gate.desk.at_work.wait())
    await asyncio.wait({calling, at_work}, return_when=asyncio.FIRST_COMPLETED)
    at_work.cancel()
    if calling.done():
        return calling.result()
    if hang_up == "after the send":
        gate.desk.hold.set()
        while not (gate.desk.effects or calling.done() or gate.desk.behaviour in _ENDS_BEFORE):
            await asyncio.sleep(0)
    calling.cancel()
    await asyncio.wait({calling})
    gate.desk.hold.set()
    await gate.shield.drain()
    return None if calling.cancelled() else calling.result()


def _agrees_with_the_world(answer: Answer, gate: Rig, failing: set[Step]) -> None:
    effects = gate.desk.effects
    match answer.outcome:
        case Refused():
            assert gate.desk.asked == 0, "what is refused is never asked of the system"
            assert answer.entry is not None
        case Failed():
            assert effects == 0 or answer.outcome.code in _READ_ENDS, "failed means: nothing was done"
        case Done(value=value):
            assert effects == 1
            assert set(value) == {"number"}
        case InputRequired():
            assert answer.entry is not None, "only a read asks after it has looked"
        case Unknown():
            assert effects <= 1
    if answer.entry is None:
        assert failing & {"open", "refuse"}, "only a lost disk leaves an answer without an entry"
        assert effects == 0, "and then nothing was done"
    if "close" in failing and effects:
        assert isinstance(answer.outcome, Unknown), "a result whose end is not recorded is withheld"


async def _asked_again(gate: Rig, tool: str, amount: object, first: Answer | None, *, keyed: bool) -> None:
    gate.ledger.failing, gate.purse.empty, gate.desk.behaviour = set(), False, "does"
    asked = gate.desk.asked
    again = await gate.call(tool, amount, key=KEY)
    if first is not None and isinstance(first.outcome, Done) and keyed:
        assert again.replayed, "a key that succeeded is answered from memory"
        assert again.outcome == first.outcome
        assert again.entry == first.entry
        assert gate.desk.asked == asked, "a replay asks the system nothing"


def _recorded(folder: Path, gate: Rig, failing: set[Step]) -> None:
    """After all is over: every effect has an intent, and every intent an end unless its write was lost."""
    calls = SqlRecords(SqliteFile(folder / "ledger.db")).calls(most=100, subject=None, tool=None)
    acted = [call for call in calls if call.end in {"done", "open"} or call.end_entry is not None]
    assert len(acted) >= gate.desk.effects
    if "close" not in failing:
        assert all(call.end != "open" for call in calls)


_ENDS_BEFORE = ("refuses", "bug before send")
_READ_ENDS = {"timeout", "adapter_error", "upstream_unknown", "bad_result"}
"""How a read fails after it was sent: the scripted system counts its answer, but a read changes nothing."""
