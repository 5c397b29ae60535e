"""What the suite asks for and the gate does not offer, with the reason of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class NotOffered:
    """A scenario, or a single check of one, that does not pass."""

    scenario: str
    reason: str
    check: str | None = None
    """None for all of the scenario."""


_SAMPLING: Final = (
    "the gate asks no model of its client: MCP deprecates sampling from 2026-07-28 on, and what a client's "
    "model says would be an unjudged input of a judged call"
)
_ROOTS: Final = "the gate looks at no folder of its client: MCP deprecates roots from 2026-07-28 on"
_LOGGING: Final = (
    "the gate sends no logs to clients: MCP deprecates logging from 2026-07-28 on, and what happened in a "
    "call stands in the ledger"
)
_WATCHING: Final = "no resource can be watched: the gate does not hear of changes in the systems behind it"
_TASKS: Final = "an extension: a call is answered when it has ended, and asked for again under its key"
_SKILLS: Final = "an extension about files for agents; the gate offers operations"

NOT_OFFERED: Final = (
    NotOffered("tools-call-sampling", _SAMPLING),
    NotOffered("input-required-result-basic-sampling", _SAMPLING),
    NotOffered(
        "input-required-result-capability-check",
        "it wants a sampling request where the client declares no elicitation; the gate asks a person or "
        "nobody, and says which capability it misses",
    ),
    NotOffered(
        "server-stateless",
        "it wants an operation that misses sampling; the gate's miss elicitation, and say so with the same "
        "error (`tests/test_rounds.py`)",
        check="sep-2575-server-rejects-undeclared-capability",
    ),
    NotOffered("input-required-result-basic-list-roots", _ROOTS),
    NotOffered(
        "input-required-result-multiple-input-requests",
        "it wants elicitation, sampling and roots in one result; the gate asks one question after the other",
    ),
    NotOffered("logging-set-level", _LOGGING),
    NotOffered("tools-call-with-logging", _LOGGING),
    NotOffered(
        "server-sse-polling",
        "no stream is resumed: 2026-07-28 has removed it, and a call whose answer was lost is asked for "
        "again under its key",
    ),
    NotOffered("resources-subscribe", _WATCHING),
    NotOffered("resources-unsubscribe", _WATCHING),
    NotOffered("tasks-lifecycle", _TASKS),
    NotOffered("tasks-capability-negotiation", _TASKS),
    NotOffered("tasks-wire-fields", _TASKS),
    NotOffered("tasks-request-state-removal", _TASKS),
    NotOffered("tasks-mrtr-input", _TASKS),
    NotOffered("tasks-request-headers", _TASKS),
    NotOffered("tasks-dispatch-and-envelope", _TASKS),
    NotOffered("tasks-status-notifications", _TASKS),
    NotOffered("tasks-required-task-error", _TASKS),
    NotOffered("tasks-mrtr-composition", _TASKS),
    NotOffered("sep-2640-skills-directory", _SKILLS),
    NotOffered("sep-2640-skills-enumeration", _SKILLS),
    NotOffered("sep-2640-skills-manifest", _SKILLS),
)


def whole(entries: tuple[NotOffered, ...]) -> Mapping[str, NotOffered]:
    """Give the scenarios of which nothing is offered."""
    return {entry.scenario: entry for entry in entries if entry.check is None}


def single(entries: tuple[NotOffered, ...], scenario: str) -> frozenset[str]:
    """Give the checks of `scenario` that are not offered."""
    return frozenset(entry.check for entry in entries if entry.scenario == scenario and entry.check)
