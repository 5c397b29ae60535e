"""What is asked of the judge, and what it says."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from toolgate.core.call import Caller
from toolgate.core.obligations import Obligations
from toolgate.core.record import JsonObject
from toolgate.core.tool import Tool

Verdict = Literal["allow", "hold", "deny"]


@dataclass(frozen=True, slots=True)
class Past:
    """An earlier call of the same run, as the ledger has it."""

    tool: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One call, as far as a policy may look at it. Nothing live is reachable from here."""

    caller: Caller
    tool: Tool
    arguments: JsonObject
    """They match the tool's input schema."""
    at: datetime
    """When the call came in: the only clock that rules know."""
    run: tuple[Past, ...] | None = None
    """The run's earlier calls, oldest first; None when nobody can tell, as for a call that names no run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WouldBe:
    """What rules in shadow would have said, where that differs. It is recorded and never enforced."""

    verdict: Verdict
    rules: tuple[str, ...]
    policy: str
    """Digest of the policy that would have judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A verdict, and why."""

    verdict: Verdict
    rules: tuple[str, ...] = ()
    """The ids of the rules that mattered, the deciding one last; empty when none matched."""
    approvers: tuple[str, ...] = ()
    """For `hold`: the roles that have to approve, each of them."""
    obligations: Obligations = field(default_factory=Obligations)
    """What must be done with the result and the record. Never a reason to allow or to deny."""
    unknown: tuple[str, ...] = ()
    """The ids of rules whose condition could not be told: a value was missing or of a wrong type."""
    allowed: str = ""
    """The nearest form that would be allowed, where there is one: bounds only, never a rule's text."""
    policy: str = ""
    """Digest of the policy that judged."""
    run: tuple[Past, ...] | None = None
    """The run's earlier calls, where rules looked at them: it holds only as long as there are no others."""
    would_be: WouldBe | None = None
