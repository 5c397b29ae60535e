"""The judge with its index against Casbin as it comes: every rule, Casbin's own roles, no shortcut."""

import random
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import casbin
import pytest

from tests.policies_for_tests import (
    AMOUNTS,
    CONDITIONS,
    EFFECTS,
    GROUPS,
    LINKS,
    ROLES,
    TENANTS,
    TOOLS,
    Row,
    cells_of,
    judge,
    tool,
)
from toolgate.backends.casbin_policy import MODEL
from toolgate.core.call import Caller
from toolgate.core.record import Json, JsonObject
from toolgate.core.tool import Tool

Ask = Callable[[JsonObject, str], bool | None]


def number(value: Json) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def more_than_five(arguments: JsonObject, _: str) -> bool | None:
    amount = number(arguments.get("amount"))
    return None if amount is None else amount > 5


def at_most_ten(arguments: JsonObject, _: str) -> bool | None:
    amount = number(arguments.get("amount"))
    return None if amount is None else amount <= 10


def is_mia(_: JsonObject, subject: str) -> bool:
    return subject == "mia"


def short_text(arguments: JsonObject, _: str) -> bool | None:
    text = arguments.get("text")
    return len(text) < 3 if isinstance(text, str) else None


def always(_: JsonObject, __: str) -> bool:
    return True


ASKED: tuple[Ask, ...] = (always, more_than_five, at_most_ten, is_mia, short_text)
MEANING: dict[str, Ask] = dict(zip(CONDITIONS, ASKED, strict=True))
"""The conditions in Python, so that their evaluator is compared as well."""


class Plain:
    """Casbin with all rows and its own role manager; each caller's roles are links of their own."""

    def __init__(self, rows: list[Row], callers: list[Caller]) -> None:
        self._casbin: Any = casbin.Enforcer(casbin.Enforcer.new_model(text=MODEL))
        for cells in cells_of(rows):
            self._casbin.add_policy(*cells)
        for link in (*LINKS, *((name(one), role, one.tenant) for one in callers for role in one.roles)):
            self._casbin.add_named_grouping_policy("g", *link)
        for group in GROUPS:
            self._casbin.add_named_grouping_policy("g2", *group)
        self._casbin.add_function("toolMatch", fnmatchcase)
        self._casbin.add_function("when", self._when)
        self._casbin.add_function("lifted", self._lifted)
        self._casbin.add_function("seen", self._seen)

    def verdict(self, who: Caller, what: Tool, arguments: JsonObject) -> str:
        asked = (name(who), who.tenant, what.name, what.terms.effect)
        if self._casbin.enforce(*asked, (arguments, who.subject, False)):
            return "allow"
        return "hold" if self._casbin.enforce(*asked, (arguments, who.subject, True)) else "deny"

    @staticmethod
    def _lifted(unless: str, asked: tuple[JsonObject, str, bool]) -> bool:
        return asked[2] and unless != "-"

    @staticmethod
    def _seen(*_: object) -> bool:
        return True

    @staticmethod
    def _when(text: str, effect: str, asked: tuple[JsonObject, str, bool]) -> bool:
        holds = MEANING[text](*asked[:2])
        return effect == "deny" if holds is None else holds


def name(who: Caller) -> str:
    return f"user:{who.subject}"


@pytest.mark.parametrize("seed", range(40))
def test_the_index_gives_the_same_verdicts_as_plain_casbin(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - cases, not secrets
    rows: list[Row] = [
        (
            chance.choice(["allow", "allow", "deny"]),
            chance.choice(["*", *ROLES, "user:mia", "mia"]),
            chance.choice(["*", "acme", *TENANTS]),
            chance.choice(["*", "crm.*", "*.delete", "group", "part", *TOOLS]),
            chance.choice(["*", *EFFECTS]),
            chance.choice(CONDITIONS),
            chance.choice(["-", "approval:boss", "approval:finance"]),
        )
        for _ in range(chance.randint(1, 9))
    ]
    callers = [
        Caller(
            subject=subject,
            issuer="test",
            tenant=chance.choice(TENANTS),
            roles=frozenset(chance.sample(ROLES, chance.randint(0, 2))),
        )
        for subject in ("mia", "rob", "support")
    ]
    judged, plain = judge(rows), Plain(rows, callers)
    for _ in range(100):
        who, arguments = chance.choice(callers), chance.choice(AMOUNTS)
        what = tool(chance.choice(TOOLS), chance.choice(EFFECTS))
        decision = judged.decide(who, what, arguments)

        assert decision.verdict == plain.verdict(who, what, arguments), (rows, who, what.name, arguments)
