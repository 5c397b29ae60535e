"""What the judge says about a call."""

from typing import Literal

from toolgate.core.record import Record

Verdict = Literal["allow", "hold", "deny"]


class Decision(Record):
    """A verdict, and why."""

    verdict: Verdict
    rules: tuple[str, ...] = ()
    """The ids of the rules that mattered, the deciding one last; empty when none matched."""
    approvers: tuple[str, ...] = ()
    """For `hold`: the roles of which one could approve."""
    allowed: str = ""
    """The nearest form that would be allowed, where there is one: bounds only, never a rule's text."""
    policy: str = ""
    """Digest of the policy that judged."""
