"""Big policies, always the same: 20 tenants with 50 roles and 500 users each, 400 tools."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Final

from toolgate.adapter import Effect
from toolgate.core.arguments import Schema
from toolgate.core.call import Caller
from toolgate.core.decision import Question
from toolgate.core.record import JsonObject
from toolgate.core.tool import Terms, Tool

TENANTS, ROLES, USERS, ROLES_A_USER = 20, 50, 500, 3
SYSTEMS, OPERATIONS = 40, 10
SHARE_DENIED, SHARE_WILD, SHARE_CONDITIONED = 0.10, 0.17, 0.50
NOON: Final = datetime(2026, 11, 18, 12, tzinfo=UTC)
CONDITIONS: Final = (
    "args.amount <= 200",
    'args.amount <= 200 && args.region == "eu"',
    'args.region in ["eu", "us"]',
    "size(args.text) <= 500",
    'has(args.text) && args.text.contains("password")',
)
_SCHEMA: Final[JsonObject] = {
    "type": "object",
    "properties": {
        "amount": {"type": "number"},
        "region": {"type": "string", "maxLength": 20},
        "text": {"type": "string", "maxLength": 1000},
    },
}
_EFFECTS: Final[tuple[Effect, ...]] = ("read", "read", "write", "destroy")


@dataclass(frozen=True, kw_only=True)
class World:
    """A policy's files, and who may ask what under it."""

    files: Mapping[str, str]
    tools: tuple[Tool, ...]
    callers: tuple[Caller, ...]
    held: tuple[tuple[str, ...], ...]
    """The roles of each caller, by `roles.csv`."""
    rows: tuple[tuple[str, ...], ...]

    @cached_property
    def _by_name(self) -> dict[str, list[Tool]]:
        """Give tools by their name and by their system's."""
        found: dict[str, list[Tool]] = {}
        for tool in self.tools:
            found.setdefault(tool.name, []).append(tool)
            found.setdefault(tool.system, []).append(tool)
        return found

    def questions(self, count: int, seed: int = 1) -> list[Question]:
        """Give calls of which every second is one that some rule was written for."""
        chance = random.Random(seed)  # noqa: S311 - cases, not secrets
        holders: dict[str, list[Caller]] = {}
        for caller, roles in zip(self.callers, self.held, strict=True):
            for role in roles:
                holders.setdefault(role, []).append(caller)
        return [self._meant(chance, holders) if number % 2 else self._any(chance) for number in range(count)]

    def _any(self, chance: random.Random) -> Question:
        return _question(chance, chance.choice(self.callers), chance.choice(self.tools))

    def _meant(self, chance: random.Random, holders: Mapping[str, list[Caller]]) -> Question:
        row = chance.choice(self.rows)
        who = chance.choice(holders.get(row[2]) or self.callers)
        named = self._by_name.get(row[4]) or self._by_name[row[4].partition(".")[0]]
        acting = [tool for tool in named if row[5] in {"*", tool.terms.effect}]
        return _question(chance, who, chance.choice(acting or named))


def world(rules: int, seed: int = 7, conditions: tuple[str, ...] = CONDITIONS) -> World:
    """Make a policy of `rules` rules, with its 10,000 users and 400 tools."""
    chance = random.Random(seed)  # noqa: S311 - as above
    tools = tuple(_tools(chance))
    rows = tuple(_row(chance, number, tools, conditions) for number in range(rules))
    held = tuple(
        tuple(sorted({_role(tenant, chance.randrange(ROLES)) for _ in range(ROLES_A_USER)}))
        for tenant in range(TENANTS)
        for _ in range(USERS)
    )
    callers = tuple(
        Caller(subject=f"u{number}", issuer="bench", tenant=f"t{number // USERS:02}")
        for number in range(TENANTS * USERS)
    )
    links = [
        f"g, user:{caller.subject}, {role}, {caller.tenant}"
        for caller, roles in zip(callers, held, strict=True)
        for role in roles
    ]
    files = {
        "rules.csv": "".join(f"p, {', '.join(map(_quoted, row))}\n" for row in rows),
        "roles.csv": "\n".join([*links, ""]),
    }
    return World(files=files, tools=tools, callers=callers, held=held, rows=rows)


def tool(name: str, effect: Effect = "read", schema: JsonObject | None = None) -> Tool:
    """Admit a tool of which a policy sees name, effect and schema."""
    terms = Terms(
        effect=effect,
        timeout=1,
        duplicates="none",
        without_key="allow",
        capture="metadata",
        scopes=frozenset(),
        credential="none",
    )
    system, _, operation = name.partition(".")
    return Tool(
        name=name,
        wire_name=name.replace(".", "_"),
        system=system,
        operation=operation,
        title=name,
        description=name,
        terms=terms,
        input=Schema(_SCHEMA if schema is None else schema),
        output=Schema({}),
        credential=None,
    )


def _tools(chance: random.Random) -> Iterator[Tool]:
    for system in range(SYSTEMS):
        for operation in range(OPERATIONS):
            yield tool(f"s{system:02}.op{operation}", chance.choice(_EFFECTS))


def _row(
    chance: random.Random, number: int, tools: tuple[Tool, ...], conditions: tuple[str, ...]
) -> tuple[str, ...]:
    what, tenant = chance.choice(tools), chance.randrange(TENANTS)
    name, place = what.name, f"t{tenant:02}"
    action: str = what.terms.effect
    if chance.random() < SHARE_WILD:
        match chance.randrange(4):
            case 0 | 1:
                name = f"{what.system}.*"
            case 2:
                action = "*"
            case _:
                place = "*"
    effect = "deny" if chance.random() < SHARE_DENIED else "allow"
    when = chance.choice(conditions) if chance.random() < SHARE_CONDITIONED else "-"
    role = _role(tenant, chance.randrange(ROLES))
    return (f"R{number}", effect, role, place, name, action, when, "-", "-")


def _question(chance: random.Random, who: Caller, what: Tool) -> Question:
    arguments: JsonObject = {
        "amount": chance.choice([1, 150, 200.5, 900]),
        "region": chance.choice(["eu", "us", "ap"]),
        "text": chance.choice(["short", "the password", "x" * 600]),
    }
    return Question(
        caller=who, tool=what, arguments=arguments, at=NOON + timedelta(seconds=chance.randrange(9999))
    )


def _role(tenant: int, number: int) -> str:
    return f"t{tenant:02}-role{number:02}"


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if "," in cell or '"' in cell else cell
