"""A gate around one scripted system: real policy, real ledger on SQLite, real runner of adapters.

Only the far end is made up: a system that counts its effects and fails as it is told, a vault that can be
empty, and a ledger that can lose its disk at a given step.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, get_args

from pydantic import BaseModel, SecretStr

from toolgate.adapter import (
    CannotTell,
    Context,
    Credential,
    Found,
    NotFound,
    NothingDone,
    Operation,
    OutcomeUnknown,
    Sending,
)
from toolgate.adapter.context import Effect
from toolgate.backends.adapter_tools import AdapterTools
from toolgate.backends.ledger_parts import LedgerFiles, LedgerParts, open_ledger_parts
from toolgate.backends.log_key import LogKey
from toolgate.backends.manifest_catalog import AdmittedTool, ManifestCatalog
from toolgate.backends.policy.casbin_judge import CasbinPolicy
from toolgate.backends.policy.reading import read_policy
from toolgate.backends.random_pool import RandomPool
from toolgate.backends.sql_ledger import SqlLedger
from toolgate.core.arguments import Schema, closed
from toolgate.core.call import Call, Caller
from toolgate.core.claims import Closed, InDoubt, Opened, RunMovedOn
from toolgate.core.credential_roles import FileRole
from toolgate.core.decision import Decision, Past
from toolgate.core.errors import CredentialUnavailable, LedgerUnavailable
from toolgate.core.gateway import Gateway
from toolgate.core.lease import Lease, Lent
from toolgate.core.outcome import Answer, Outcome, Refused
from toolgate.core.ports import Rulebook
from toolgate.core.reconcile import Reconciler
from toolgate.core.record import JsonObject
from toolgate.core.shield import Shield
from toolgate.core.tool import Duplicates, Terms, Tool, WithoutKey
from toolgate.main import new_call_id, now

REPO = Path(__file__).resolve().parents[1]
ANN = Caller(subject="ann", issuer="test", tenant="acme", roles=frozenset({"worker"}))
Step = Literal["open", "remember", "close", "refuse"]
Behaviour = Literal[
    "does",
    "refuses",
    "bug before send",
    "bug after send",
    "asks after the send",
    "unknown",
    "hangs",
    "bad result",
]
RULES = """
p, W1, allow, worker, acme, desk.*, *, -, -, -
p, W2, deny,  worker, acme, desk.write, write, args.amount > 100, -, -
"""


class Amount(BaseModel):
    amount: int


class Sure(BaseModel):
    sure: bool


class Receipt(BaseModel):
    number: int


@dataclass
class Desk:
    """The system: it does what `behaviour` says, and counts what it did."""

    behaviour: Behaviour = "does"
    question: str = ""
    """What a person is asked before it sends."""
    fields: type[BaseModel] = Sure
    remembers: bool = False
    """Whether it makes a token durable before it sends."""
    effects: int = 0
    asked: int = 0
    keys: list[str] = field(default_factory=list[str])
    loses: bool = False
    """Whether what is sent never arrives."""
    done: set[str] = field(default_factory=set[str])
    tells: Literal["the truth", "nothing", "nonsense", "sends", "hangs"] = "the truth"
    """What it says when it is asked what became of a send."""
    looked: int = 0
    hold: asyncio.Event | None = None
    """When set, an operation waits for it before it sends."""
    at_work: asyncio.Event = field(default_factory=asyncio.Event)
    marks_sending = True

    @asynccontextmanager
    async def session(self, credential: Credential | None, sending: Sending) -> AsyncGenerator["Desk"]:
        del credential, sending
        yield self

    async def aclose(self) -> None:
        """Nothing is open."""

    async def find(self, amount: Amount, context: Context["Desk"]) -> Found[Receipt] | NotFound | CannotTell:
        """Tell what became of an earlier send."""
        self.looked += 1
        match self.tells:
            case "the truth" if context.idempotency_key in self.done:
                return Found(Receipt(number=amount.amount))
            case "the truth":
                return NotFound()
            case "nothing":
                return CannotTell("it is closed")
            case "nonsense":
                return Found(Receipt.model_construct(number="none"))  # type: ignore[arg-type]
            case "sends":
                context.sending()
                return NotFound()
            case "hangs":
                await asyncio.sleep(60)
                return NotFound()

    async def work(self, amount: Amount, context: Context["Desk"]) -> Receipt:
        """Do what was asked."""
        self.asked += 1
        self.keys.append(context.idempotency_key)
        self.at_work.set()
        if self.hold is not None:
            await self.hold.wait()
        if self.behaviour == "bug before send":
            raise RuntimeError("a bug")
        if self.behaviour == "refuses":
            raise NothingDone("busy", "try later", retryable=True)
        if self.question and context.answer(self.question, self.fields) != Sure(sure=True):
            raise NothingDone("not_wanted", "the person is not sure")
        if self.remembers:
            await context.remember({"token": "t"})
        context.sending()
        if not self.loses:
            self.effects += 1
            self.done.add(context.idempotency_key)
        return await self._after_the_send(amount, context)

    async def _after_the_send(self, amount: Amount, context: Context["Desk"]) -> Receipt:
        match self.behaviour:
            case "bug after send":
                raise RuntimeError("a bug")
            case "asks after the send":
                context.answer("Too late?", Sure)
            case "unknown":
                raise OutcomeUnknown("the line broke")
            case "hangs":
                await asyncio.sleep(60)
            case "bad result":
                return Receipt.model_construct(number="none")  # type: ignore[arg-type]
            case _:
                pass
        return Receipt(number=amount.amount)


class Purse:
    """The vault: it lends one secret, unless it is empty."""

    def __init__(self) -> None:
        self.empty = False
        self.secret = "s"
        self.lent = 0

    async def lend(self, tool: Tool, call: Call, opened: Opened) -> Lease | None:
        del opened
        if self.empty:
            raise CredentialUnavailable("no_credential", "the purse is empty", retryable=True)
        self.lent += 1
        return Lease(secret=SecretStr(self.secret), lent=Lent(id=call.id, role=tool.terms.credential))

    async def take_back(self, lease: Lease, outcome: Outcome | None = None) -> tuple[Lent, ...]:
        return (lease.lent,)


@dataclass
class FailingLedger:
    """The real ledger, until a step loses its disk."""

    inner: SqlLedger
    failing: set[Step] = field(default_factory=set[Step])

    def _at(self, step: Step) -> None:
        if step in self.failing:
            raise LedgerUnavailable("the disk is gone")

    async def open(
        self, call: Call, tool: Tool, decision: Decision, book: Rulebook, *, last_word: bool = False
    ) -> Opened | Answer | InDoubt | RunMovedOn:
        self._at("open")
        return await self.inner.open(call, tool, decision, book, last_word=last_word)

    def may_act(self, opened: Opened) -> bool:
        return self.inner.may_act(opened)

    async def run_of(self, call: Call, tool: Tool) -> tuple[Past, ...] | None:
        self._at("open")
        return await self.inner.run_of(call, tool)

    async def remember(self, opened: Opened, value: JsonObject) -> None:
        self._at("remember")
        await self.inner.remember(opened, value)

    async def close(
        self, call: Call, tool: Tool, opened: Opened, outcome: Outcome, lent: Sequence[Lent] = ()
    ) -> Closed:
        self._at("close")
        return await self.inner.close(call, tool, opened, outcome, lent)

    async def refuse(
        self, call: Call, tool: Tool | None, refused: Refused, decision: Decision | None, book: Rulebook
    ) -> int:
        self._at("refuse")
        return await self.inner.refuse(call, tool, refused, decision, book)


@dataclass
class Rig:
    """The gate, and what a test may turn."""

    gateway: Gateway
    desk: Desk
    purse: Purse
    ledger: FailingLedger
    shield: Shield
    database: Path
    parts: LedgerParts
    tools: dict[str, AdmittedTool]
    enforce: Callable[[str], None]
    """Puts other rules in force."""

    async def call(
        self,
        tool: str = "desk.write",
        amount: object = 1,
        *,
        key: str | None = None,
        caller: Caller = ANN,
        again: bool = False,
        answers: JsonObject | None = None,
        at: datetime | None = None,
        run: str | None = None,
    ) -> Answer:
        asked = self.asked(tool, amount, key=key, caller=caller)
        return await self.gateway.carry_out(
            replace(asked, again=again, answers=answers, received_at=at or now(), run=run)
        )

    def asked(self, tool: str, amount: object = 1, *, key: str | None = None, caller: Caller = ANN) -> Call:
        return Call(
            id=new_call_id(),
            caller=caller,
            tool=tool,
            arguments={"amount": amount},  # type: ignore[dict-item]
            received_at=now(),
            key=key,
            key_from="none" if key is None else "meta",
        )


@asynccontextmanager
async def rig(
    folder: Path,
    *,
    seconds: float = 5.0,
    without_key: WithoutKey = "allow",
    patience: float = 10.0,
    wait: float = 2.0,
    clock: Callable[[], datetime] = now,
    duplicates: Duplicates = "none",
    quiet_period: float = 30,
    every: float = 1.0,
    rules: str = RULES,
    url: str | None = None,
) -> AsyncGenerator[Rig]:
    """Build the gate on a database in `folder`, or at `url`; close it when all that was begun has ended."""
    desk, purse, shield = Desk(), Purse(), Shield()
    tools: list[AdmittedTool] = []
    for effect in get_args(Effect):
        terms = Terms(
            effect=effect,
            timeout=seconds,
            duplicates=duplicates,
            without_key=without_key if effect != "read" else "allow",
            capture="full",
            scopes=frozenset(),
            credential="agent",
            quiet_period=quiet_period,
        )
        tools.append(_tool(desk, terms))
    catalog = ManifestCatalog(tools, "c" * 64)
    in_force = [Rulebook(catalog=catalog, policy=_policy(rules))]

    def enforce(others: str) -> None:
        in_force[0] = Rulebook(catalog=catalog, policy=_policy(others))

    parts = ledger_in(folder, patience=patience, wait=wait, clock=clock, every=every, url=url)
    ledger, running = FailingLedger(parts.calls), AdapterTools(now=now)
    gateway = Gateway(
        rulebook=lambda: in_force[0],
        ledger=ledger,
        vault=purse,
        tools=running,
        shield=shield,
        reconciler=Reconciler(doubts=parts.doubts, vault=purse, tools=running),
    )
    admitted = {tool.name: tool for tool in tools}
    try:
        yield Rig(gateway, desk, purse, ledger, shield, folder / "ledger.db", parts, admitted, enforce)
    finally:
        await shield.drain()
        await parts.aclose()


def ledger_in(
    folder: Path,
    *,
    patience: float = 10.0,
    wait: float = 2.0,
    clock: Callable[[], datetime] = now,
    every: float = 1.0,
    url: str | None = None,
) -> LedgerParts:
    """Open a ledger in `folder`, whose key is made when it is not there."""
    key = folder / "ledger.key"
    if not key.exists():
        LogKey.new("toolgate/test").write(key)
    files = LedgerFiles(
        database=folder / "ledger.db",
        checkpoint=folder / "checkpoint",
        spill=folder / "spill",
        patience=patience,
        wait=wait,
        every=every,
        url=None if url is None else SecretStr(url),
    )
    return open_ledger_parts(files, LogKey.read(key), now=clock, random=RandomPool().take)


def _policy(rules: str) -> CasbinPolicy:
    with TemporaryDirectory() as folder:
        policies = Path(folder)
        (policies / "model.conf").write_text((REPO / "policies" / "model.conf").read_text("utf-8"), "utf-8")
        (policies / "rules.csv").write_text(rules, "utf-8")
        text, faults = read_policy(policies)
    assert text is not None, faults
    return CasbinPolicy(text)


def _tool(desk: Desk, terms: Terms) -> AdmittedTool:
    effect = terms.effect
    operation = Operation(
        name=effect,
        description="Work.",
        input_model=Amount,
        output_model=Receipt,
        run=desk.work,
        look_up=desk.find,
    )
    return AdmittedTool(
        name=f"desk.{effect}",
        wire_name=f"desk_{effect}",
        system="desk",
        operation=effect,
        title=effect,
        description="Work.",
        terms=terms,
        input=Schema(closed(Amount.model_json_schema())),
        output=Schema(Receipt.model_json_schema(mode="serialization")),
        credential=FileRole(secret="s", sign_in="bearer"),
        adapter="desk",
        run_by=operation,
        connector=desk,
    )
