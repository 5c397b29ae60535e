"""Claims against a model: whatever happens in what order, the real ledger says what a plain class does."""

import asyncio
import os
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.gate_on_scripted_system import Purse
from tests.torture.gate import ANN, AllowsAll
from tests.torture.line import TOOL, Line, tool
from tests.torture.points import Points
from toolgate.backends.ledger_parts import LedgerFiles, LedgerParts, open_ledger_parts
from toolgate.backends.log_key import LogKey
from toolgate.backends.manifest_catalog import ManifestCatalog
from toolgate.backends.sql_claims import GRACE
from toolgate.backends.sql_doubts import NOTHING_THERE, PAUSE, RESOLVED_AS_NOTHING
from toolgate.core.call import Call
from toolgate.core.claims import Finding, InDoubt, Opened, in_doubt_still
from toolgate.core.decision import Decision
from toolgate.core.errors import NothingRecorded
from toolgate.core.outcome import Done, Failed, Outcome, Refused, Unknown
from toolgate.core.ports import Act, Rulebook
from toolgate.core.reconcile import CANNOT_TELL, Reconciler
from toolgate.core.tool import Duplicates, Tool

T = TypeVar("T")
TIMEOUT, QUIET, KEY_TTL, KEPT = 10, 20, 150, 400
LAPSE = TIMEOUT + int(GRACE.total_seconds())
ASK_PAUSE = int(PAUSE.total_seconds())
KEYS = range(2)
NEVER = 10**9
EndedAs = Literal["done", "retriable", "final", "cancelled", "unknown"]
ENDS: dict[EndedAs, Outcome] = {
    "done": Done(value={"number": 0, "effect": 1}),
    "retriable": Failed(code="busy", detail="later", retryable=True),
    "final": Failed(code="wrong", detail="never", retryable=False),
    "cancelled": Failed(code="cancelled_before_send", detail="gone", retryable=True),
    "unknown": Unknown(code="timeout", detail="who knows"),
}
STATES = {
    "done": "succeeded",
    "retriable": "failed_retriable",
    "final": "failed_final",
    "cancelled": "cancelled_before_send",
    "unknown": "unknown",
}


@dataclass
class Claim:
    """The model: what is true of a key, in seconds."""

    asks: int
    opened: int
    life: int
    """Of the gate that runs the attempt."""
    until: int
    state: str = "in_progress"
    attempt: int = 1
    asked: int = -(10**6)
    gone: int | None = None
    """Since when it is known that the attempt's owner sends nothing any more."""
    outcome: Outcome | None = None

    def look(self, now: int, life: int) -> None:
        """Take it for lost where it was left in the middle."""
        if self.state == "in_progress" and (self.life != life or now >= self.until):
            self.state, self.until, self.outcome = "unknown", now + QUIET, None
            self.gone = now if self.life != life else None

    def notice(self, now: int, life: int) -> None:
        """Notice that the owner of an attempt that was taken for lost before is gone by now."""
        if self.state == "unknown" and self.gone is None and self.life != life:
            self.gone, self.until = now, now + QUIET

    def open(self, asks: int, now: int, mode: Duplicates) -> str:
        """Say how a call under the key is answered."""
        if self.asks != asks:
            return "idempotency_conflict"
        known = self.state not in {"in_progress", "unknown"}
        if self.state == "expired" or (known and now >= self.opened + KEPT):
            return "idempotency_key_expired"
        if self.state in {"failed_retriable", "cancelled_before_send"}:
            return "runs"
        if self.state == "unknown":
            resends = mode == "natural" or (mode == "key" and now < self.opened + KEY_TTL)
            return "runs again" if resends else ("in doubt" if mode == "query" else "unknown")
        return "in_progress" if self.state == "in_progress" else "replays"

    def claim(self, now: int, life: int) -> None:
        """Run it once more."""
        self.state, self.life, self.until, self.gone = "in_progress", life, now + LAPSE, None
        self.attempt, self.outcome, self.asked = self.attempt + 1, None, Claim.asked

    def end(self, attempt: int, how: EndedAs, outcome: Outcome, now: int, *, resent: bool) -> bool:
        """End an attempt; whether it was late, and changed nothing but that its owner sends no more."""
        late = self.state != "in_progress" or self.attempt != attempt
        if not late:
            sure = how == "done" or not resent
            self.state, self.outcome = STATES[how] if sure else "unknown", outcome
            self.until = now + QUIET
        if self.attempt == attempt and self.gone is None:
            # What is known to have happened is never shown to have not, by a look-up that finds nothing;
            # nobody is asked about it but when a caller wants to know.
            self.gone = NEVER if late and how == "done" else now
            if late and self.state == "unknown":
                self.until = NEVER if how == "done" else now + QUIET
        return late

    def may_ask(self, now: int) -> bool:
        """Whether the system may be asked when a caller wants to know."""
        return self.state == "unknown" and now - self.asked > ASK_PAUSE

    def is_due(self, now: int) -> bool:
        """Whether it is time to ask without anybody's wanting to know."""
        waited = now - ASK_PAUSE - self.asked
        rested = self.asked < 0 or (waited >= 0 and self.asked - self.opened <= waited)
        return self.state == "unknown" and self.until <= now and rested


@dataclass
class Scripted:
    """The far end: it says of a look-up what it is told to say."""

    finding: Finding = CANNOT_TELL

    async def run(self, tool: Tool, act: Act) -> Outcome:
        raise AssertionError("the machine runs the attempts")

    async def look_up(self, tool: Tool, act: Act) -> Finding:
        return self.finding


@dataclass(frozen=True)
class Running:
    """An attempt under way in the gate's present life."""

    key: int
    call: Call
    opened: Opened


@dataclass
class Gate:
    """The real ledger on a clock of ours."""

    folder: Path
    mode: Duplicates
    seconds: int = 1_000
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    far: Scripted = field(default_factory=Scripted)

    def __post_init__(self) -> None:
        LogKey.new("toolgate/machine").write(self.folder / "ledger.key")
        admitted = tool(
            Line(self.folder, Points((), self.folder, hang=0)), self.mode, timeout=TIMEOUT, quiet=QUIET
        )
        self.tool = replace(admitted, terms=admitted.terms.model_copy(update={"key_ttl": KEY_TTL}))
        self.book = Rulebook(catalog=ManifestCatalog([self.tool], "c" * 64), policy=AllowsAll())
        self.open_ledger()

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def open_ledger(self) -> None:
        """Begin a life."""
        files = LedgerFiles(
            database=self.folder / "ledger.db",
            checkpoint=self.folder / "checkpoint",
            spill=self.folder / "spill",
            every=3600,
            wait=0,
            kept=timedelta(seconds=KEPT),
            floor=0,
        )
        key = LogKey.read(self.folder / "ledger.key")
        self.parts: LedgerParts = open_ledger_parts(files, key, now=self.now, random=os.urandom)
        self.reconciler = Reconciler(doubts=self.parts.doubts, vault=Purse(), tools=self.far)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for something."""
        return self.loop.run_until_complete(work)

    def close(self) -> None:
        """End for good."""
        self.do(self.parts.aclose())
        self.do(self.loop.shutdown_default_executor())
        self.loop.close()


class ClaimsMachine(RuleBasedStateMachine):
    """Does to the ledger and to the model what Hypothesis draws, and compares what they say."""

    @initialize(mode=st.sampled_from(["key", "natural", "query", "none"]))
    def begin(self, mode: Duplicates) -> None:
        self.scratch = tempfile.TemporaryDirectory()
        self.gate = Gate(Path(self.scratch.name), mode)
        self.claims: dict[int, Claim] = {}
        self.ids: dict[int, str] = {}
        self.running: list[Running] = []
        self.life = self.calls = 0

    def teardown(self) -> None:
        if hasattr(self, "gate"):
            self.gate.close()
            self.scratch.cleanup()

    @rule(key=st.sampled_from(KEYS), asks=st.sampled_from([1, 1, 1, 2]))
    def call(self, key: int, asks: int) -> None:
        """Somebody calls, for the first time or again."""
        call, answer = self._open(key, asks)
        claim = self.claims.get(key)
        if claim is None:
            assert isinstance(answer, Opened)
            assert answer.attempt == 1
            now = self.gate.seconds
            self.claims[key], self.ids[key] = Claim(asks, now, self.life, now + LAPSE), answer.call_id
            self.running.append(Running(key, call, answer))
            return
        expected = claim.open(asks, self.gate.seconds, self.gate.mode)
        if isinstance(answer, Opened):
            assert expected == ("runs again" if answer.resent else "runs")
            claim.claim(self.gate.seconds, self.life)
            assert (answer.call_id, answer.attempt) == (self.ids[key], claim.attempt)
            self.running.append(Running(key, call, answer))
        elif isinstance(answer, InDoubt):
            assert expected == "in doubt"
        elif expected == "replays":
            assert answer.replayed
            assert answer.outcome == claim.outcome
        elif expected == "unknown":
            assert answer.replayed
            assert isinstance(answer.outcome, Unknown)
        else:
            assert isinstance(answer.outcome, Refused)
            assert answer.outcome.code == expected

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 9), how=st.sampled_from([*ENDS]))
    def end(self, which: int, how: EndedAs) -> None:
        """An attempt ends, in time or late."""
        run = self.running.pop(which % len(self.running))
        outcome = in_doubt_still(ENDS[how]) if run.opened.resent else ENDS[how]
        closed = self.gate.do(self.gate.parts.calls.close(run.call, self.gate.tool, run.opened, outcome))
        resent, attempt = run.opened.resent, run.opened.attempt
        late = self.claims[run.key].end(attempt, how, outcome, self.gate.seconds, resent=resent)
        assert closed.late == late

    @rule(seconds=st.sampled_from([3, QUIET + 1, LAPSE + 1, LAPSE + 1, KEY_TTL]))
    def wait(self, seconds: int) -> None:
        """Time passes."""
        self.gate.seconds += seconds

    @rule()
    def die(self) -> None:
        """The gate goes away in the middle of everything, and another one comes."""
        self.gate.do(self.gate.parts.aclose())
        self.gate.open_ledger()
        self.life += 1
        self.running.clear()

    @precondition(lambda self: self.gate.mode == "query" and self.claims)
    @rule(which=st.integers(0, 9), verdict=st.sampled_from(["found", "not_found", "cannot_tell"]))
    def look_up(self, which: int, verdict: Literal["found", "not_found", "cannot_tell"]) -> None:
        """A caller asks again, and the system is asked."""
        key = sorted(self.claims)[which % len(self.claims)]
        claim, now = self.claims[key], self.gate.seconds
        claim.look(now, self.life)
        if verdict == "not_found" and not (claim.gone is None or now >= claim.gone + QUIET):
            verdict = "cannot_tell"
        if claim.gone is None and claim.life != self.life:
            # Nobody knew until now that its owner is gone; what nothing there shows has a case of its own.
            verdict = "cannot_tell"
        if claim.open(claim.asks, now, "query") != "in doubt":
            return
        call, doubt = self._open(key, claim.asks)
        assert isinstance(doubt, InDoubt)
        outcome = Done(value={"number": key, "effect": 7}) if verdict == "found" else None
        self.gate.far.finding = Finding(verdict=verdict, outcome=outcome)
        self.gate.do(self.gate.reconciler.find_out(call, self.gate.tool, doubt.earlier))
        if not claim.may_ask(now):
            return
        self._asked(claim, now)
        if outcome is not None:
            claim.state, claim.outcome = "succeeded", outcome
        elif verdict == "not_found" and claim.gone is not None and now >= claim.until:
            claim.state, claim.outcome = "failed_retriable", NOTHING_THERE

    @rule()
    def keep_house(self) -> None:
        """Lost calls are taken for lost, those in doubt are asked about, and old answers are forgotten."""
        now = self.gate.seconds
        for claim in self.claims.values():
            claim.look(now, self.life)
        due = [claim for claim in self.claims.values() if self.gate.mode == "query" and claim.is_due(now)]
        self.gate.far.finding = CANNOT_TELL
        assert self.gate.do(self.gate.reconciler.go_round(self.gate.book.catalog.find)) == len(due)
        for claim in due:
            self._asked(claim, now)
        old = [
            claim
            for claim in self.claims.values()
            if claim.outcome is not None
            and claim.state not in {"unknown", "expired"}
            and now >= claim.opened + KEPT
        ]
        assert self.gate.do(self.gate.parts.doubts.expire()) == len(old)
        for claim in old:
            claim.state, claim.outcome = "expired", None

    @precondition(lambda self: self.claims)
    @rule(which=st.integers(0, 9), done=st.booleans())
    def resolve(self, which: int, done: bool) -> None:
        """A person says what became of a call."""
        key = sorted(self.claims)[which % len(self.claims)]
        claim = self.claims[key]
        claim.look(self.gate.seconds, self.life)
        outcome = Done(value={"number": key, "effect": 9}) if done else None
        saying = self.gate.parts.doubts.resolve(self.ids[key], outcome, by="p0", because="seen")
        if claim.state == "unknown":
            self.gate.do(saying)
            claim.state = "succeeded" if done else "failed_retriable"
            claim.outcome = outcome or RESOLVED_AS_NOTHING
        else:
            try:
                self.gate.do(saying)
            except NothingRecorded:
                return
            raise AssertionError("a call that is not unknown was resolved")

    def _asked(self, claim: Claim, now: int) -> None:
        claim.asked = now
        claim.notice(now, self.life)

    def _open(self, key: int, asks: int) -> tuple[Call, Any]:
        """Open a call in the ledger, and have the model look whether the earlier one is lost."""
        self.calls += 1
        call = Call(
            id=f"c{self.calls:031x}",
            caller=ANN,
            tool=TOOL,
            arguments={"number": asks},
            received_at=self.gate.now(),
            key=f"a-key-for-number-{key}",
            key_from="meta",
        )
        decision = Decision(verdict="allow", rules=("W1",))
        answer = self.gate.do(self.gate.parts.calls.open(call, self.gate.tool, decision, self.gate.book))
        if key in self.claims:
            self.claims[key].look(self.gate.seconds, self.life)
            self.claims[key].notice(self.gate.seconds, self.life)
        return call, answer


ClaimsMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestClaims = ClaimsMachine.TestCase
