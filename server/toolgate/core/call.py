"""Who asks, and what is asked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from hashlib import sha256
from typing import Literal

from pydantic import SecretStr

from toolgate.core.canonical import canonical
from toolgate.core.record import JsonObject, Record

KeySource = Literal["none", "meta", "header", "derived", "round"]
"""Where a call's idempotency key came from: `derived`: its place in a run; `round`: its first round."""


class Caller(Record):
    """A person or an agent, as a verified token or `toolgate.toml` names them. Never the token itself."""

    subject: str
    issuer: str
    tenant: str
    client: str = ""
    """The OAuth client that acts, for the record only: nothing is decided by it."""
    roles: frozenset[str] = frozenset()
    """What the issuer says; `roles.csv` may add more in this tenant."""
    scopes: frozenset[str] = frozenset()
    act: tuple[str, ...] = ()
    """Who acts on the subject's behalf, nearest first (RFC 8693, section 4.1)."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request to use one tool."""

    id: str
    caller: Caller
    tool: str
    """As the client wrote it."""
    arguments: JsonObject
    received_at: datetime
    key: str | None = None
    """Two calls of one tool by one subject under one key are the same call."""
    key_from: KeySource = "none"
    run: str | None = None
    """The orchestrator's run that this call is part of."""
    step: str | None = None
    """The step of that run."""
    ordinal: int = 0
    """Which of the step's calls."""
    answers: JsonObject | None = None
    """What the person behind the caller answered so far, by the names of the questions."""
    questions: Mapping[str, str] = field(default_factory=dict[str, str])
    """The marks of the questions that were answered, where they are known."""
    declined: bool = False
    """The person did not want to answer it."""
    again: bool = False
    """The caller insists: this is not a repetition by mistake."""
    trace: str | None = None
    """W3C `traceparent`, for correlation only."""
    token: SecretStr | None = field(default=None, repr=False, compare=False)
    """The caller's access token, for an exchange at its own issuer's token endpoint and for nothing else. It
    lives in memory as long as the call."""

    @cached_property
    def fingerprint(self) -> str:
        """Equal for two calls that ask the same thing: SHA-256 over the canonical arguments, hexadecimal."""
        return sha256(self.spelled).hexdigest()

    @cached_property
    def spelled(self) -> bytes:
        """The arguments in canonical JSON."""
        return canonical(self.arguments)
