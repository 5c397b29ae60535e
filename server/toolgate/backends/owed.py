"""What somebody still has to end: leases, and the run tokens under which they were made."""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, kw_only=True)
class OwedLease:
    """A lease that may still live."""

    id: str
    accessor: str
    intent: int
    call_id: str
    tool: str
    tenant: str
    who: str
    run: str
    role: str
    source: str
    kind: str
    scope: str
    issued: int
    lent_at: int
    until: int
    owner: str
    state: str


@dataclass(frozen=True, kw_only=True)
class OwedRun:
    """A run token that may still live."""

    accessor: str
    intent: int
    call_id: str
    tool: str
    tenant: str
    who: str
    run: str
    opened_at: int
    until: int
    owner: str
    state: str


Owed: TypeAlias = OwedLease | OwedRun
