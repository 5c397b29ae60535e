"""READ THIS FIRST: the way of one call, and the only way to an effect."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from toolgate.adapter.context import Progress
from toolgate.core.arguments import out_of_bounds
from toolgate.core.call import Call, Caller
from toolgate.core.claims import InDoubt, Opened, RunMovedOn, fault_in_key, in_doubt_still, with_derived_key
from toolgate.core.decision import Decision, Past, Question
from toolgate.core.errors import CredentialUnavailable, LedgerUnavailable
from toolgate.core.lease import Lease, Lent
from toolgate.core.outcome import Answer, Failed, Outcome, Refused, Unknown
from toolgate.core.ports import Act, Ledger, Rulebook, Tools, Unwitnessed, Vault, Witnesses, silent
from toolgate.core.reconcile import Reconciler
from toolgate.core.record import JsonObject
from toolgate.core.shield import HangUp, Shield
from toolgate.core.tool import Tool
from toolgate.core.turns import Turns
from toolgate.core.withheld import quiet, value_without_secrets, without_secrets


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """Judges a call, records it, acts once, records the end, and only then answers."""

    rulebook: Callable[[], Rulebook]
    """The one in force now."""
    ledger: Ledger
    vault: Vault
    tools: Tools
    shield: Shield
    reconciler: Reconciler
    turns: Turns = field(default_factory=Turns)
    witnesses: Witnesses = field(default_factory=Unwitnessed)

    def tools_for(self, caller: Caller) -> list[Tool]:
        """Give the tools of which some call could be allowed to `caller`, by name."""
        book = self.rulebook()
        return [t for t in book.catalog.tools if not t.unreviewed and book.policy.visible(caller, t)]

    async def carry_out(self, call: Call, progress: Progress = silent) -> Answer:
        """Take `call` through the house. Its outcome says what has happened to the world."""
        book = self.rulebook()
        tool = book.catalog.find(call.tool)
        if tool is None or not book.policy.visible(call.caller, tool):
            return await self._refuse(book, call, None, _UNKNOWN_TOOL)
        if tool.unreviewed:
            return await self._refuse(book, call, tool.under("metadata"), _TOOL_CHANGED)
        call = with_derived_key(call, tool)
        if refused := _fault_in(call, tool):  # the rules were not asked, so how much may be kept is not known
            return await self._refuse(book, call, tool.under("metadata"), refused)
        return await self.shield.run(partial(self._carry_through, book, call, tool, progress))

    async def _carry_through(
        self, book: Rulebook, call: Call, tool: Tool, progress: Progress, hang_up: HangUp
    ) -> Answer:
        """Judge, open, act and close, in that order."""
        try:
            decision, opened = await self._open(book, call, tool)
        except LedgerUnavailable:
            return _unrecorded(call)
        obliged = _obliged(tool, decision)
        match opened:
            case Refused() as refused:
                return await self._refuse(book, call, obliged, refused, decision)
            case Answer() as answer:
                return _seen(answer, tool, decision)
            case Opened():
                outcome, lent = await self._attempt(call, obliged, opened, progress, hang_up)
                answer = await self._close(call, obliged, opened, outcome, lent)
                return _seen(answer, tool, decision)

    async def _open(
        self, book: Rulebook, call: Call, tool: Tool
    ) -> tuple[Decision, Opened | Answer | Refused]:
        """Judge the call, and open it where it is allowed; anew when others of its run came between."""
        asks_run = book.policy.asks_run(call.caller, tool)
        decision = _NOT_JUDGED
        for _ in range(_MOST_JUDGEMENTS):
            async with self.turns.of(call) if asks_run and call.run else nullcontext():
                run = await self.ledger.run_of(call, tool) if asks_run else None
                decision = book.policy.decide(_question(call, tool, run))
                if decision.verdict != "allow":
                    return decision, _in_words(decision)
                opened = await self.ledger.open(call, _obliged(tool, decision), decision, book)
            if isinstance(opened, InDoubt):
                opened = await self._find_out(call, _obliged(tool, decision), opened, decision, book)
            if not isinstance(opened, RunMovedOn):
                return decision, opened
        return decision, _RUN_TOO_BUSY

    async def _find_out(
        self, call: Call, tool: Tool, doubt: InDoubt, decision: Decision, book: Rulebook
    ) -> Opened | Answer | RunMovedOn:
        """Ask the system what became of the first call; then it is answered, or may be run again."""
        try:
            await self.reconciler.find_out(call, tool, doubt.earlier)
            opened = await self.ledger.open(call, tool, decision, book, last_word=True)
        except LedgerUnavailable:
            return doubt.answer(call.received_at, tool.terms)
        if isinstance(opened, InDoubt):
            raise TypeError("a ledger that was asked for its last word is not in doubt")
        return opened

    async def _attempt(
        self, call: Call, tool: Tool, opened: Opened, progress: Progress, hang_up: HangUp
    ) -> tuple[Outcome, Sequence[Lent]]:
        """Act with a credential that is lent for this attempt, and taken back before anybody is answered."""
        lent: Sequence[Lent] = ()
        if tool.terms.witnessed and (failed := await self.witnesses.demand(tool, opened.intent, hang_up)):
            return (in_doubt_still(failed) if opened.resent else failed), lent
        try:
            lease = await self.vault.lend(tool, call, opened)
        except CredentialUnavailable as error:
            outcome: Outcome = Failed(code=error.code, detail=str(error), retryable=error.retryable)
            return (in_doubt_still(outcome) if opened.resent else outcome), lent
        act = Act(
            call=call,
            opened=opened,
            lease=lease,
            remember=partial(self._remember, opened, lease),
            progress=quiet(progress, lease),
            hang_up=hang_up,
            may_send=partial(self.ledger.may_act, opened),
        )
        ended: Outcome | None = None
        try:
            ended = outcome = await self.tools.run(tool, act) if act.may_send() else _OUT_OF_SIGHT
        finally:
            if lease is not None:
                lent = await self.vault.take_back(lease, ended)
        outcome = without_secrets(outcome, lease)
        return (in_doubt_still(outcome) if opened.resent else outcome), lent

    async def _remember(self, opened: Opened, lease: Lease | None, value: JsonObject) -> None:
        await self.ledger.remember(opened, value_without_secrets(value, lease))

    async def _close(
        self, call: Call, tool: Tool, opened: Opened, outcome: Outcome, lent: Sequence[Lent]
    ) -> Answer:
        try:
            closed = await self.ledger.close(call, tool, opened, outcome, lent)
        except LedgerUnavailable:
            return Answer(outcome=_UNRECORDED_END, call_id=opened.call_id, entry=opened.intent)
        if closed.late:
            return Answer(outcome=_LATE, call_id=opened.call_id, entry=closed.entry)
        return Answer(outcome=outcome, call_id=opened.call_id, entry=closed.entry)

    async def _refuse(
        self,
        book: Rulebook,
        call: Call,
        tool: Tool | None,
        refused: Refused,
        decision: Decision | None = None,
    ) -> Answer:
        try:
            entry = await self.ledger.refuse(call, tool, refused, decision, book)
        except LedgerUnavailable:
            return _unrecorded(call)
        return Answer(outcome=refused, call_id=call.id, entry=entry)


def _question(call: Call, tool: Tool, run: tuple[Past, ...] | None) -> Question:
    return Question(caller=call.caller, tool=tool, arguments=call.arguments, at=call.received_at, run=run)


def _obliged(tool: Tool, decision: Decision) -> Tool:
    """Give the tool on terms that are as strict as the rules oblige to."""
    obligations = decision.obligations
    return tool.under(obligations.least(tool.terms.capture), require_dynamic=obligations.dynamic)


def _seen(answer: Answer, tool: Tool, decision: Decision) -> Answer:
    """Give the answer as the caller may see it, and how."""
    seen = answer.under(decision.obligations)
    return seen.model_copy(update={"as_content": True}) if tool.gives_content else seen


def _fault_in(call: Call, tool: Tool) -> Refused | None:
    """What is wrong with the call itself. Nothing else reads the arguments before this has."""
    if fault := out_of_bounds(call.arguments) or tool.input.fault_in(call.arguments):
        return Refused(code="bad_arguments", detail=fault)
    if missing := tool.terms.scopes - call.caller.scopes:
        return Refused(
            code="insufficient_scope",
            detail=f"the token lacks the scope {' '.join(sorted(missing))}; ask your issuer for it",
            scopes=tool.terms.scopes,
        )
    if call.declined:
        return Refused(code="input_declined", detail="the question that the call depends on was not answered")
    if call.answers is not None and (fault := out_of_bounds(call.answers)):
        return Refused(code="bad_arguments", detail=f"the answer: {fault}")
    return _key_fault(call, tool)


def _key_fault(call: Call, tool: Tool) -> Refused | None:
    if call.key is not None and (fault := fault_in_key(call.key)):
        return Refused(code="bad_idempotency_key", detail=fault)
    if call.key is None and tool.terms.without_key == "require":
        return Refused(
            code="idempotency_key_required",
            detail='this tool needs an idempotency key in _meta["dev.toolgate/idempotencyKey"]',
        )
    return None


def _in_words(decision: Decision) -> Refused:
    rule = f"rule {decision.rules[-1]}" if decision.rules else "no rule allows it"
    if decision.verdict == "hold":
        approvers = " and ".join(decision.approvers)
        return Refused(
            code="approval_required",
            detail=f"{rule} asks for an approval by {approvers}, which cannot be given here",
        )
    allowed = f"; allowed is: {decision.allowed}" if decision.allowed else ""
    return Refused(
        code="forbidden",
        detail=f"the policy does not allow this call ({rule}){allowed}. "
        "Change the call, or ask the team that keeps the policy",
    )


def _unrecorded(call: Call) -> Answer:
    failed = Failed(
        code="ledger_unavailable",
        detail="the call could not be recorded, so nothing was done now; ask again later, under the same key",
        retryable=True,
    )
    return Answer(outcome=failed, call_id=call.id, entry=None)


_NOT_JUDGED = Decision(verdict="deny")
_MOST_JUDGEMENTS: Final = 50
"""How often one call is judged: while other calls of its run go between, its decision does not hold."""
_RUN_TOO_BUSY = Refused(
    code="run_too_busy",
    detail="rules look at the run's earlier calls, and others went between each time; ask again",
    retry_after_ms=200,
)
_UNKNOWN_TOOL = Refused(code="unknown_tool", detail="there is no such tool")
_TOOL_CHANGED = Refused(
    code="tool_changed",
    detail="the tool is not what was reviewed, and is not served until somebody has reviewed it; "
    "ask the team that keeps the registry",
)
_UNRECORDED_END = Unknown(
    code="end_not_recorded",
    detail="the call was acted on, but its end could not be recorded; its result is withheld",
)
_OUT_OF_SIGHT = Failed(
    code="cancelled_before_send",
    detail="the gate had lost sight of its ledger, so nothing was sent; ask again under the same key",
    retryable=True,
)
_LATE = Unknown(
    code="late_outcome",
    detail="the call ended after it had been taken for lost; the ledger has both, and somebody must look",
)
