"""How a witness stands with this gate: it cosigns, is silent, or says that the ledger contradicts itself."""

import asyncio
import time
from dataclasses import dataclass
from typing import Final, Literal

from toolgate.backends.witness_client import WitnessClient
from toolgate.core.record import JsonObject

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds until a witness that did not cosign is asked again, at first and at last."""

Standing = Literal["unasked", "cosigns", "silent", "rolled_back", "forked"]
CONTRADICTIONS: Final = frozenset({"rolled_back", "forked"})


class Contradicted(Exception):  # noqa: N818 - named by what is the matter
    """A witness has seen a ledger under our name that ours does not extend."""

    def __init__(self, standing: Literal["rolled_back", "forked"], known: int, ours: int) -> None:
        super().__init__(_IN_WORDS[standing].format(known=known, ours=ours))
        self.standing: Standing = standing
        self.known, self.ours = known, ours


@dataclass(eq=False)
class Asked:
    """A witness, and how it stands with this gate."""

    client: WitnessClient
    standing: Standing = "unasked"
    problem: str = ""
    size: int = 0
    """Of the tree that it knows, as far as we know."""
    cosigned: int = 0
    """The size of the checkpoint that it cosigned last."""
    recorded: bool = False
    """Whether the last that the ledger was told of it is a contradiction."""
    pause: float = FIRST_PAUSE
    not_before: float = 0.0
    at_work: "asyncio.Task[None] | None" = None

    @property
    def name(self) -> str:
        return self.client.witness.name

    @property
    def contradicts(self) -> bool:
        """Whether it says that the ledger was forked or rolled back."""
        return self.standing in CONTRADICTIONS

    def told(self) -> JsonObject:
        """Say how it stands, to an operator."""
        said: JsonObject = {"standing": self.standing, "cosigned": self.cosigned}
        return said | {"problem": self.problem} if self.problem else said

    def put_off(self) -> None:
        """Leave it alone for a while, each time longer."""
        self.not_before = time.monotonic() + self.pause
        self.pause = min(2 * self.pause, LONGEST_PAUSE)


_IN_WORDS: Final = {
    "rolled_back": "it has cosigned {known} entries of this ledger, and only {ours} are here: the "
    "database is an old copy, or another copy of it goes on elsewhere",
    "forked": "the {known} entries that it has cosigned are not the first of the {ours} here: the ledger "
    "was forked, or rewritten",
}
