"""A year of calls, written by the product's own spelling and batches; what `bench.ledger` measures."""

import random
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from toolgate import __version__
from toolgate.backends.checkpoints import Checkpoints
from toolgate.backends.erased_names import ErasedNames
from toolgate.backends.ledger_batch import Batch
from toolgate.backends.ledger_entries import Entries, Entry, Names, micros
from toolgate.backends.log_key import LogKey
from toolgate.backends.owners import FileOwners
from toolgate.backends.random_pool import RandomPool
from toolgate.backends.sql_claims import GRACE, Claims, Settlement, stored
from toolgate.backends.sql_tables import PSEUDONYM
from toolgate.backends.sqlite_files import connected, prepare
from toolgate.core.arguments import Schema
from toolgate.core.call import Call, Caller
from toolgate.core.canonical import canonical
from toolgate.core.claims import Attempt, Opened, state_after
from toolgate.core.decision import Decision
from toolgate.core.lease import Lent
from toolgate.core.outcome import Answer, Done, Failed, Outcome, Refused, Unknown
from toolgate.core.record import JsonObject
from toolgate.core.tool import Terms, Tool

BEGIN: Final = datetime(2026, 1, 1, tzinfo=UTC)
SPAN: Final = timedelta(days=365)
TOOLS, SUBJECTS, RUNS_ONE_IN = 50, 500, 4
CALLS_A_TRANSACTION: Final = 20_000
RANDOM: Final = RandomPool()


def build(file: Path, calls: int, *, leases: bool) -> LogKey:
    """Write a ledger of so many calls; gives the key that signs it."""
    begun = time.monotonic()
    builder = Builder(file, calls, leases=leases)
    for first in range(0, calls, CALLS_A_TRANSACTION):
        with builder.batch() as batch:
            builder.govern(batch, first)
            for _ in range(min(CALLS_A_TRANSACTION, calls - first)):
                builder.call(batch)
        builder.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    builder.close(file)
    each = file.stat().st_size / calls
    print(f"{calls:,} calls in {time.monotonic() - begun:.0f} s: {each:,.0f} bytes a call")
    return builder.key


@dataclass(frozen=True, kw_only=True)
class Subject:
    caller: Caller
    names: Names


class Story:
    """What happens in a year, always the same: who calls what, and how it ends."""

    def __init__(self, calls: int) -> None:
        self._chance = random.Random(7)  # noqa: S311 - it decides nothing but what the ledger holds
        self._step = SPAN / calls
        self.at = BEGIN
        self.tools = [_tool(number) for number in range(TOOLS)]
        self.subjects = [_subject(number) for number in range(SUBJECTS)]
        self._weights = [1 / (1 + number) ** 0.7 for number in range(TOOLS)]

    def next_call(self) -> tuple[Call, Tool, Names]:
        self.at += self._step
        chance = self._chance
        (tool,) = chance.choices(self.tools, self._weights)
        subject = self.subjects[int(SUBJECTS * chance.random() ** 2)]
        run = f"run-{int(self.at.timestamp()) // 900}" if chance.randrange(RUNS_ONE_IN) == 0 else None
        keyed = tool.terms.effect != "read" and chance.random() < 0.8
        milliseconds = int(self.at.timestamp() * 1000)
        call = Call(
            id=f"c{milliseconds:012x}{RANDOM.take(10).hex()}",
            caller=subject.caller,
            tool=tool.name,
            arguments=self._arguments(),
            received_at=self.at,
            key=RANDOM.take(16).hex() if keyed else None,
            key_from="meta" if keyed else "none",
            run=run,
            trace=f"00-{RANDOM.take(16).hex()}-{RANDOM.take(8).hex()}-01" if run else None,
        )
        return call, tool, subject.names

    def fate(self) -> str:
        (fate,) = self._chance.choices(("refused", "repeated", "failed", "unknown", "done"), (8, 2, 2, 1, 87))
        return fate

    def outcome(self, fate: str) -> Outcome:
        match fate:
            case "failed":
                return Failed(code="upstream_503", detail="the system is busy", retryable=True)
            case "unknown":
                return Unknown(code="timeout", detail="no answer in time")
            case _:
                return Done(value={"id": self._chance.randrange(10**6), "status": "open", "rows": []})

    def pause(self) -> timedelta:
        return timedelta(milliseconds=self._chance.lognormvariate(4, 0.8))

    def refusal(self) -> tuple[Refused, Decision | None]:
        chance = self._chance
        rules = (f"R{chance.randrange(20):02d}",)
        refusals: tuple[tuple[str, Decision | None], ...] = (
            ("forbidden", Decision(verdict="deny", rules=rules)),
            ("approval_required", Decision(verdict="hold", rules=rules)),
            ("bad_arguments", None),
        )
        code, decision = chance.choice(refusals)
        return Refused(code=code, detail="no"), decision

    def _arguments(self) -> JsonObject:
        chance = self._chance
        return {
            "ticket": chance.randrange(10**5),
            "title": f"Printer {chance.randrange(10**4)} on floor {chance.randrange(40)} is out of order",
            "priority": chance.choice(("low", "normal", "urgent")),
        }


class Builder:
    """Writes a story into a ledger, through batches of the product."""

    def __init__(self, file: Path, calls: int, *, leases: bool) -> None:
        prepare(file)
        self.connection = connected(file)
        self.connection.execute("PRAGMA synchronous = OFF")
        self.connection.execute("PRAGMA cache_size = -200000")
        self.story, self._leases = Story(calls), leases
        self._entries = Entries(now=lambda: self.story.at, random=RANDOM.take)
        self._owners = FileOwners(Path(f"{file}.writers"))
        self._claims = Claims(self._owners, timedelta(days=30))
        self.key = LogKey.new("toolgate/bench")
        self._wseq, self._config, self._last = 0, 0, 1
        self._runs: dict[str, str] = {}
        for subject in self.story.subjects:
            self._know("subject", subject.names.who, subject.caller, subject.caller.subject)

    @contextmanager
    def batch(self) -> Generator[Batch]:
        self.connection.execute("BEGIN IMMEDIATE")
        batch = Batch(self.connection, f"{self._owners.me}-0", self._wseq, self._preface, ErasedNames())
        yield batch
        batch.flush()
        self.connection.execute("COMMIT")
        self._wseq = batch.wseq

    def govern(self, batch: Batch, change: int) -> None:
        parts = ("policy", "registry", "settings", "adapters", "keys", "lock")
        digests: JsonObject = {part: f"{change if part == 'policy' else 0:064x}" for part in parts}
        self._config = batch.append(self._entries.bare("config", "in_force", digests=digests))

    def call(self, batch: Batch) -> None:
        call, tool, names = self.story.next_call()
        run = self._run(call) if call.run else ""
        names = Names(who=names.who, client=names.client, run=run, config=self._config)
        fate, allowed = self.story.fate(), Decision(verdict="allow", rules=("R01",))
        if fate == "refused":
            refused, decision = self.story.refusal()
            batch.append(self._entries.refusal(call, tool, refused, decision, names))
            return
        if fate == "repeated":
            answer = Answer(outcome=Done(value={}), call_id=call.id, entry=self._last, replayed=True)
            batch.append(self._entries.repeat(call, tool, allowed, names, answer))
            return
        attempt = Attempt(
            call_id=call.id, opened_at=call.received_at, until=self.story.at + GRACE, remembered={}
        )
        intent = batch.append(self._entries.intent(call, tool, allowed, names, attempt))
        claimed = call.key is not None or tool.terms.effect != "read"
        if claimed:
            request: JsonObject = {"arguments": call.arguments, "caller": call.caller.model_dump(mode="json")}
            self._claims.claim(batch, call, tool, attempt, intent, canonical(request))
        self._end(
            batch,
            call,
            tool,
            names,
            Opened(call_id=call.id, intent=intent, claimed=claimed, remembered={}),
            fate,
        )

    def _end(self, batch: Batch, call: Call, tool: Tool, names: Names, opened: Opened, fate: str) -> None:
        begun = self.story.at
        self.story.at += self.story.pause()
        outcome = self.story.outcome(fate)
        if self._leases:
            lent = Lent(id=call.id, role="agent")
            batch.append(self._entries.lease(call, tool, names, opened, lent))
        self._last = batch.append(self._entries.outcome(call, tool, names, opened, outcome))
        if opened.claimed:
            settled = Settlement(
                outcome=stored(outcome), state=state_after(outcome), until=micros(self.story.at)
            )
            self._claims.settle(batch, opened, settled, self._last)
        self.story.at = begun

    def _run(self, call: Call) -> str:
        run = call.run or ""
        if run not in self._runs:
            self._runs[run] = f"p{RANDOM.take(10).hex()}"
            self._know("run", self._runs[run], call.caller, run)
        return self._runs[run]

    def _know(self, kind: str, name: str, caller: Caller, clear: str) -> None:
        value = canonical([caller.tenant, caller.issuer, clear])
        self.connection.execute(f"INSERT INTO {PSEUDONYM.name} VALUES (?, ?, ?)", (name, kind, value))  # noqa: S608

    def _preface(self, *, empty: bool) -> list[Entry]:
        if not empty:
            return []
        return [
            self._entries.bare("genesis", "begun", origin=self.key.verifier.name),
            self._entries.bare("writer_start", "started", program=__version__),
        ]

    def close(self, file: Path) -> None:
        checkpoint = file.with_suffix(".checkpoint")
        checkpoint.unlink(missing_ok=True)
        Checkpoints(self.key, checkpoint).publish(self.connection)
        file.with_suffix(".vkey").write_text(f"{self.key.verifier}\n", "ascii")
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self.connection.close()
        self._owners.leave(())


def _tool(number: int) -> Tool:
    effect: Literal["read", "write", "destroy"] = (
        "read" if number % 10 < 6 else "write" if number % 10 < 9 else "destroy"
    )
    system, operation = f"system{number // 10}", f"operation{number % 10}"
    return Tool(
        name=f"{system}.{operation}",
        wire_name=f"{system}_{operation}",
        system=system,
        operation=operation,
        title=operation,
        description="Work.",
        terms=Terms(
            effect=effect,
            timeout=30,
            duplicates="key",
            capture="arguments" if number % 10 == 7 else "digests",
            scopes=frozenset(),
            credential="agent",
        ),
        input=Schema({"type": "object"}),
        output=Schema({"type": "object"}),
        credential=None,
    )


def _subject(number: int) -> Subject:
    caller = Caller(
        subject=f"person{number:03d}@example.com",
        issuer="https://login.example.com/realms/acme",
        tenant="acme" if number % 5 else "globex",
        client="agent",
        roles=frozenset({"member"}),
    )
    return Subject(caller=caller, names=Names(who=f"p{RANDOM.take(10).hex()}", client=f"p{number % 7:020x}"))
