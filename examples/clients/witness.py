"""What a client says that it did, held against what the gate's ledger says."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

from examples.clients.gate import Gate
from toolgate.backends.sql_records import RecordedCall

TOOLS: Final = {"notes_add", "notes_remove", "notes_search"}
STEPS: Final = ("listed", "read", "written", "replayed", "refused")
KEYS: Final = {"meta": "_meta", "header": "header"}


@dataclass(frozen=True)
class Seen:
    """What one client did; a step that is not `done` has a reason in `missing`."""

    client: str
    era: str
    key: str
    """Where its idempotency key came, as the ledger has it."""
    done: frozenset[str]
    missing: tuple[str, ...]


def seen(said: str, era: str, gate: Gate, caller: str) -> Seen:
    """Compare what a client printed, one JSON object a line, with what the ledger holds of its caller.

    Raises:
        ValueError: it printed something else.
    """
    told: dict[str, list[Any]] = defaultdict(list)
    for line in said.splitlines():
        step = json.loads(line)
        if not isinstance(step, dict):
            raise ValueError(f"no JSON object: {line}")  # noqa: TRY004 - as JSON's own faults are
        for name, value in cast("dict[str, Any]", step).items():
            told[name].append(value)
    calls = gate.calls(caller)
    faults = dict(_faults(told, Counter((call.tool, call.end) for call in calls)))
    spoken = _first(told["era"])
    wrong_era = [f"it spoke {spoken}, not {era}"] if spoken != era else []
    return Seen(
        client=_first(told["client"]),
        era=spoken,
        key=_key(gate, calls),
        done=frozenset(STEPS) - faults.keys(),
        missing=(*wrong_era, *faults.values()),
    )


def _faults(told: dict[str, list[Any]], recorded: Counter[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Give each step that did not happen, and why that is thought."""
    if not any(set(tools) >= TOOLS for tools in told["tools"]):
        yield "listed", f"it listed {told['tools']}"
    rows = [row for found in told["read"] for row in found["rows"]]
    if not rows or not recorded["notes.search", "done"]:
        yield "read", f"it read {told['read']}; recorded: {_spelled(recorded)}"
    notes = told["wrote"]
    if not notes or recorded["notes.add", "done"] != 1:
        yield "written", f"it wrote {notes}; recorded: {_spelled(recorded)}"
    same = len(notes) == 2 and notes[0] == notes[1] and told["replayed"] in ([], [False, True])
    if not same or recorded["notes.add", "replayed"] != 1:
        yield "replayed", f"it was told {notes}, replayed {told['replayed']}; recorded: {_spelled(recorded)}"
    explained = all("at most 500" in text for text in told["text"])
    if not (set(told["refused"]) == {"forbidden"} and explained and recorded["notes.add", "forbidden"]):
        yield "refused", f"it was refused {told['refused']}: {told['text']}; recorded: {_spelled(recorded)}"


def _key(gate: Gate, calls: list[RecordedCall]) -> str:
    written = next((call for call in calls if (call.tool, call.end) == ("notes.add", "done")), None)
    if written is None:
        return "-"
    return KEYS.get(str(gate.entries(written.call_id)[0]["key"]), "-")


def _first(values: list[Any]) -> str:
    return str(values[0]) if values else "-"


def _spelled(recorded: Counter[tuple[str, str]]) -> str:
    return ", ".join(f"{tool} {end} {times}x" for (tool, end), times in recorded.items()) or "nothing"
