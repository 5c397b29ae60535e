"""A policy in force, with another one beside it that only watches."""

from dataclasses import replace

from toolgate.core.call import Caller
from toolgate.core.decision import Decision, Question, WouldBe
from toolgate.core.ports import Policy
from toolgate.core.tool import Tool


class ShadowedPolicy:
    """Judges by one version; what the other would have said is noted where it differs."""

    def __init__(self, enforced: Policy, shadow: Policy) -> None:
        self.enforced, self.shadow = enforced, shadow
        self.digest, self.shadow_digest = enforced.digest, shadow.digest

    def visible(self, caller: Caller, tool: Tool) -> bool:
        """Ask the version in force alone: what a shadow would show stays unseen."""
        return self.enforced.visible(caller, tool)

    def asks_run(self, caller: Caller, tool: Tool) -> bool:
        """Whether either asks for the run's earlier calls."""
        return self.enforced.asks_run(caller, tool) or self.shadow.asks_run(caller, tool)

    def decide(self, question: Question) -> Decision:
        """Judge by the version in force, and note what the other would have said."""
        decision = self.enforced.decide(question)
        other = self.shadow.decide(question)
        if other.verdict == decision.verdict:
            return decision
        said = WouldBe(verdict=other.verdict, rules=other.rules, policy=other.policy)
        return replace(decision, would_be=said)
