"""What the gateway needs of the outside, in as few words as it uses."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from toolgate.adapter.context import Progress
from toolgate.core.call import Call, Caller
from toolgate.core.claims import Asked, Closed, Doubtful, EarlierCall, Finding, InDoubt, Opened, RunMovedOn
from toolgate.core.decision import Decision, Past, Question
from toolgate.core.lease import Lease, Lent
from toolgate.core.outcome import Answer, Failed, Outcome, Refused
from toolgate.core.record import JsonObject
from toolgate.core.shield import HangUp
from toolgate.core.tool import Tool


class Catalog(Protocol):
    """The admitted tools."""

    @property
    def digest(self) -> str: ...

    @property
    def tools(self) -> Sequence[Tool]:
        """All of them, ordered by wire name: the order in which they are listed and paged."""
        ...

    def find(self, name: str) -> Tool | None:
        """Find a tool by its name or its wire name."""
        ...


class Policy(Protocol):
    """The judge. It does no input or output, and it never raises: what it cannot judge it denies."""

    @property
    def digest(self) -> str: ...

    def visible(self, caller: Caller, tool: Tool) -> bool:
        """Whether some call of `tool` could be allowed to `caller`."""
        ...

    def asks_run(self, caller: Caller, tool: Tool) -> bool:
        """Whether judging a call of `tool` takes the run's earlier calls."""
        ...

    def decide(self, question: Question) -> Decision: ...


@dataclass(frozen=True, kw_only=True)
class Rulebook:
    """Catalogue and policy as they were read together; a call sees one of them from begin to end."""

    catalog: Catalog
    policy: Policy

    @property
    def version(self) -> str:
        """What both are, in one word: two rulebooks with the same version say the same."""
        return f"{self.catalog.digest[:16]}.{self.policy.digest[:16]}"


class Ledger(Protocol):
    """Durable memory. Each method returns when its entry is durable, or raises `LedgerUnavailable`."""

    async def run_of(self, call: Call, tool: Tool) -> tuple[Past, ...] | None:
        """Give the earlier calls of the run that `call` is part of; None where it names none."""
        ...

    async def open(
        self, call: Call, tool: Tool, decision: Decision, book: Rulebook, *, last_word: bool = False
    ) -> Opened | Answer | InDoubt | RunMovedOn:
        """Record the intent and claim the key in one transaction, or give the answer of an earlier call.

        `RunMovedOn` when the decision looked at the run's earlier calls, and there are others by now.

        While the earlier call runs, wait for its answer a bounded time. `InDoubt` when nobody knows what
        became of it and the system could be asked; not with `last_word`, which answers that it is unknown.
        """
        ...

    def may_act(self, opened: Opened) -> bool:
        """Whether this process may still act on what it has opened: else others may take that for lost."""
        ...

    async def remember(self, opened: Opened, value: JsonObject) -> None:
        """Keep what the adapter must know again if this attempt dies after its send."""
        ...

    async def close(
        self, call: Call, tool: Tool, opened: Opened, outcome: Outcome, lent: Sequence[Lent] = ()
    ) -> Closed:
        """Record the end and settle the claim, unless the attempt had been taken for lost."""
        ...

    async def refuse(
        self, call: Call, tool: Tool | None, refused: Refused, decision: Decision | None, book: Rulebook
    ) -> int:
        """Record that nothing was done, and why; gives the entry."""
        ...


class Doubts(Protocol):
    """The ledger, as who finds out what became of calls needs it. Raises `LedgerUnavailable`."""

    async def asked(self, earlier: EarlierCall, tool: Tool) -> Asked | None:
        """Record that the system is about to be asked; None when it was asked a moment ago, or is settled."""
        ...

    async def found(
        self, earlier: EarlierCall, asked: Asked, finding: Finding, lent: Sequence[Lent] = ()
    ) -> None:
        """Record what the system said, and settle the claim when that says enough.

        `lent` is with what it was asked, as that was taken back.
        """
        ...

    async def sweep(self, find: Callable[[str], Tool | None]) -> list[Doubtful]:
        """Take for lost what was left in the middle; give unknown calls that it is time to ask about."""
        ...


class Vault(Protocol):
    """Lends credentials."""

    async def lend(self, tool: Tool, call: Call, opened: Opened) -> Lease | None:
        """Lend the credential that `tool` needs; None where it needs none. There is none without an intent.

        Raises:
            CredentialUnavailable: there is none; whatever was made on the way has been given back.
        """
        ...

    async def take_back(self, lease: Lease, outcome: Outcome | None = None) -> tuple[Lent, ...]:
        """End a lease, or see to it that it will be ended; say what became of it. Never raises.

        `outcome` is what was done with it: one that the system did not take is not lent again.
        """
        ...


class Witnesses(Protocol):
    """Third parties that vouch for the ledger before a call of a tool marked `witnessed` is acted on."""

    async def demand(self, tool: Tool, intent: int, hang_up: HangUp) -> Failed | None:
        """Wait until enough of them have cosigned a ledger that holds the entry `intent`.

        Gives up after the tool's timeout, or when the gate ends, and says why; then nothing may be done.
        """
        ...


class Unwitnessed:
    """A deployment that names no witnesses: nothing that must be witnessed is done."""

    async def demand(self, tool: Tool, intent: int, hang_up: HangUp) -> Failed | None:
        """Say that there is nobody to ask."""
        del tool, intent, hang_up
        return Failed(
            code="not_witnessed",
            detail="this tool waits for witnesses, and the gate has none; nothing was done. "
            "Ask the team that runs the gate",
            retryable=True,
        )


@dataclass(frozen=True, kw_only=True)
class Act:
    """One attempt at an effect, as the part that runs adapters needs it."""

    call: Call
    opened: Opened
    lease: Lease | None
    remember: Callable[[JsonObject], Awaitable[None]]
    progress: Progress
    hang_up: HangUp
    may_send: Callable[[], bool] = lambda: True
    """Asked before each send: else others may have taken the attempt for lost."""


class Tools(Protocol):
    """Runs the operations of adapters. Whatever an adapter raises becomes an `Outcome`."""

    async def run(self, tool: Tool, act: Act) -> Outcome: ...

    async def look_up(self, tool: Tool, act: Act) -> Finding:
        """Ask the system what became of an earlier send. Never raises."""
        ...


async def silent(_progress: float, _total: float | None = None, _message: str | None = None, /) -> None:
    """Report progress to nobody."""
