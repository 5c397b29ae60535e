"""The adapter, and the connection to nothing that its operations have."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from pydantic import BaseModel

from toolgate.adapter import Adapter, Context, Credential, Sending, System


@dataclass(frozen=True)
class Nowhere:
    """There is no system behind it; what is lent is the deployment's folder."""

    root: Path
    marks_sending = True

    @asynccontextmanager
    async def session(self, credential: Credential | None, sending: Sending) -> AsyncGenerator[Path]:
        del credential, sending
        yield self.root

    async def aclose(self) -> None:
        """Nothing is open."""


def _connect(system: System) -> Nowhere:
    return Nowhere(system.root)


Here: TypeAlias = Context[Path]
suite: Adapter[Path] = Adapter("suite", connect=_connect)


class Nothing(BaseModel):
    """No arguments."""
