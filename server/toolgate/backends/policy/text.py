"""A policy as it is written: rules, roles, groups of tools, and the files that they stand in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from toolgate.backends.policy.conditions import Condition
from toolgate.core.obligations import Obligations

NONE: Final = "-"
RULE_CELLS: Final = ("id", "effect", "who", "tenant", "tool", "action", "when", "unless", "with")
Effect = Literal["allow", "deny", "oblige"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One `p` row."""

    cells: tuple[str, ...]
    """All nine of `RULE_CELLS`, as Casbin gets them."""
    id: str
    effect: Effect
    shadow: bool = False
    """Judged, and never enforced: its effect is written `shadow-allow` or `shadow-deny`."""
    who: str
    tenant: str
    tool: str
    action: str
    when: Condition | None
    approver: str | None
    """The role whose approval lifts a deny; None when nothing does."""
    obligations: Obligations = field(default_factory=Obligations)
    file: str
    line: int
    columns: tuple[int, ...] = ()
    """Where each of the nine cells begins, from 1."""


@dataclass(frozen=True, slots=True)
class RoleLink:
    """One `g` row: who has which role in which tenant."""

    who: str
    role: str
    tenant: str
    file: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class GroupLink:
    """One `g2` row: which tool is in which group."""

    tool: str
    group: str
    file: str = ""
    line: int = 0


@dataclass(frozen=True, kw_only=True)
class PolicyText:
    """One version of the policy, read. It does not change."""

    files: Mapping[str, str]
    """Every file's text by its name under `policies/`, such as `rules.csv` and `cases/refunds.toml`."""
    rules: tuple[Rule, ...]
    roles: tuple[RoleLink, ...]
    groups: tuple[GroupLink, ...]
    digest: str
    """SHA-256 over names and texts of all files, hexadecimal: the version."""
