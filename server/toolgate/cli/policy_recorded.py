"""Explains a recorded call, under the policy that was in force when it was made."""

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text

from toolgate.backends.ledger_database import LedgerDatabase
from toolgate.backends.policy.casbin_judge import CasbinPolicy
from toolgate.backends.policy.explaining import explain
from toolgate.backends.policy.text import PolicyText
from toolgate.backends.recorded_calls import (
    NotJudged,
    RecordedCalls,
    RecordedJudgement,
    Window,
    caller_then,
    when_recorded,
)
from toolgate.cli.audit_read import record_read
from toolgate.cli.output import err, out, print_json, printable
from toolgate.cli.policy_parts import catalog_of, policy_called, short, tool_called
from toolgate.cli.policy_said import document, fault_before, lines, said
from toolgate.core.call import Caller
from toolgate.core.decision import Past, Question
from toolgate.core.errors import NothingRecorded
from toolgate.parts import ledger_database
from toolgate.settings import Settings


@dataclass(frozen=True, kw_only=True)
class _Recorded:
    """A recorded call, and what was kept beside it."""

    judgement: RecordedJudgement
    caller: Caller
    run: tuple[Past, ...] | None
    policy: str
    """Digest of the one that was in force."""

    @property
    def missing(self) -> list[str]:
        """What a judge would need and was not kept."""
        kept = {"arguments": self.judgement.arguments, "roles of the caller": self.judgement.caller}
        return [name for name, value in kept.items() if value is None]


def explain_recorded(
    root: Path, settings: Settings, call_id: str, policy: str | None, *, as_json: bool
) -> None:
    """Print why a recorded call was answered as it was.

    Raises:
        NothingRecorded: there is no such call, or the policy was not asked about it.
        LedgerUnavailable, Misconfigured: what is needed cannot be read, or the reading not be recorded.
    """
    record_read(root, settings, "policy explain", {"call": call_id})
    recorded = _recorded(ledger_database(root, settings), call_id)
    text, remark = _policy_then(root, settings, recorded.policy, policy)
    if remark:
        err().print(Text(remark, style="yellow"))
    if recorded.missing:
        _print_what_is_kept(recorded, text, as_json=as_json)
        return
    question = Question(
        caller=recorded.caller,
        tool=tool_called(catalog_of(root, settings), recorded.judgement.tool),
        arguments=json.loads(recorded.judgement.arguments or b"{}"),
        at=when_recorded(recorded.judgement),
        run=recorded.run,
    )
    judge = CasbinPolicy(text)
    found, before = explain(judge, question), fault_before(question, judge)
    if as_json:
        print_json({"call": call_id, "recorded": _verdict(recorded), **document(found, before)})
        return
    out().print(Text(printable(_headline(recorded))))
    for line in lines(found, before):
        out().print(Text(printable(line)))


def _recorded(database: LedgerDatabase, call_id: str) -> _Recorded:
    with closing(RecordedCalls(database)) as calls:
        judgement = calls.of_call(call_id)
        if judgement is None:
            raise NothingRecorded(f"no call {call_id} is recorded; see: toolgate calls list")
        if isinstance(judgement, NotJudged):
            raise NothingRecorded(
                f"call {call_id} was refused before the policy was asked: {judgement.status}"
            )
        history = calls.history_before(Window(entries=judgement.entry + 1, since=judgement.at))
        person = calls.people("subject").get(judgement.who)
        client = calls.people("client").get(judgement.client)
        return _Recorded(
            judgement=judgement,
            caller=caller_then(judgement, person, client),
            run=history.before(judgement),
            policy=calls.policy_of(judgement.config) or "",
        )


def _policy_then(root: Path, settings: Settings, digest: str, named: str | None) -> tuple[PolicyText, str]:
    """Give the policy that was in force then, or another one with a remark that it is."""
    if named is not None:
        return policy_called(root, settings, named), ""
    here = policy_called(root, settings, None)
    if here.digest == digest:
        return here, ""
    try:
        return policy_called(root, settings, digest), ""
    except NothingRecorded:
        return here, (
            f"the policy in force then, {short(digest)}, is not stored: this is explained under the files "
            f"on the disk, {short(here.digest)}"
        )


def _print_what_is_kept(recorded: _Recorded, text: PolicyText, *, as_json: bool) -> None:
    """Say what the ledger says itself: without its arguments a call cannot be judged again."""
    rules = {rule.id: rule for rule in text.rules}
    mattered = [said(rules[id_]) if id_ in rules else id_ for id_ in recorded.judgement.rules]
    if as_json:
        print_json({**_verdict(recorded), "mattered": mattered, "not_kept": recorded.missing})
        return
    out().print(Text(printable(_headline(recorded))))
    for line in mattered or ["no rule allowed it"]:
        out().print(Text(printable(f"  {line}")))
    missing = " and ".join(recorded.missing)
    out().print(
        Text(f"Not kept: the {missing}; so it cannot be judged again, and what would change it told.")
    )


def _headline(recorded: _Recorded) -> str:
    judgement = recorded.judgement
    who = f"{recorded.caller.subject} in {judgement.tenant}"
    rules = ", ".join(judgement.rules) or "no rule"
    return (
        f"Recorded (entry {judgement.entry}, {when_recorded(judgement):%Y-%m-%d %H:%M:%S} UTC): {who}, "
        f"{judgement.tool}: {judgement.verdict} ({rules})"
    )


def _verdict(recorded: _Recorded) -> dict[str, object]:
    judgement = recorded.judgement
    return {
        "entry": judgement.entry,
        "at": when_recorded(judgement).isoformat(),
        "verdict": judgement.verdict,
        "rules": list(judgement.rules),
        "policy": recorded.policy,
    }
