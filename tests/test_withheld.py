"""A system that tells what it was shown does not tell the caller."""

import base64
import json
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import pytest
from pydantic import SecretStr

from tests.canaries import secrets_under
from tests.gate_on_scripted_system import rig
from toolgate.core.claims import Finding
from toolgate.core.lease import Lease, Lent
from toolgate.core.outcome import Done, Failed, InputRequired, Outcome, Unknown
from toolgate.core.ports import Act
from toolgate.core.record import Json
from toolgate.core.tool import Tool
from toolgate.core.withheld import without_secrets

SECRET = "agent:correct-horse"
CLIENT = "client-of-the-gate:battery-staple"
HARD = 'pass/"word ü'
BASIC = base64.b64encode(SECRET.encode()).decode()


def lease(secret: str = SECRET, *beside: Lease) -> Lease:
    return Lease(secret=SecretStr(secret), lent=Lent(id="l", role="agent"), beside=beside)


@pytest.mark.parametrize(
    ("told", "seen"),
    [
        (f"Basic {BASIC}", "Basic [withheld]"),
        ({"headers": [SECRET, "correct-horse"]}, {"headers": ["[withheld]", "[withheld]"]}),
        (
            {"correct-horse": {"deep": [["x correct-horse y"]]}},
            {"[withheld]": {"deep": [["x [withheld] y"]]}},
        ),
        (f"postgresql://agent:{quote(HARD, safe='')}@db", "postgresql://agent:[withheld]@db"),
        (f"{{{json.dumps(HARD)}}}", '{"[withheld]"}'),
        (HARD.encode().hex(), "[withheld]"),
        (base64.b64encode(HARD.encode()).decode().rstrip("="), "[withheld]"),
        ([1, None, True, 1.5, "agent"], [1, None, True, 1.5, "agent"]),
    ],
)
def test_each_spelling_of_the_secret_is_withheld_at_any_depth(told: Json, seen: Json) -> None:
    both = lease(SECRET, lease(f"agent:{HARD}"))

    assert without_secrets(Done(value={"told": told}), both) == Done(value={"told": seen})


@pytest.mark.parametrize(
    "outcome",
    [
        Failed(code="x", detail=f"bad password {SECRET}", retryable=False),
        Unknown(code="x", detail=f"after {SECRET}"),
        InputRequired(detail=f"is it {SECRET}?", fields={}),
    ],
)
def test_no_words_of_an_end_hold_it(outcome: Outcome) -> None:
    assert "horse" not in without_secrets(outcome, lease()).model_dump_json()


def test_a_secret_with_which_the_credential_was_got_is_withheld_too() -> None:
    told = Done(value={"told": "battery-staple"})

    assert without_secrets(told, lease(SECRET, lease(CLIENT))) == Done(value={"told": "[withheld]"})


def test_what_is_no_secret_stays_the_very_same() -> None:
    outcome = Done(value={"told": "a horse"})

    assert without_secrets(outcome, lease()) is outcome
    assert without_secrets(outcome, lease("short")) is outcome
    assert without_secrets(outcome, None) is outcome


@dataclass
class Echo:
    """A system that tells what it was shown."""

    async def run(self, tool: Tool, act: Act) -> Outcome:
        del tool
        assert act.lease is not None
        return Done(value={"number": 1, "told": act.lease.secret.get_secret_value()})

    async def look_up(self, tool: Tool, act: Act) -> Finding:
        outcome = await self.run(tool, act)
        assert isinstance(outcome, Done)
        return Finding(verdict="found", outcome=outcome)


@dataclass
class Chatty(Echo):
    """One that tells it on the way, and wants to keep it."""

    async def run(self, tool: Tool, act: Act) -> Outcome:
        assert act.lease is not None
        secret = act.lease.secret.get_secret_value()
        await act.progress(1, 2, f"asked with {secret}")
        await act.remember({"token": secret})
        return Unknown(code="x", detail="the line broke")


@pytest.mark.anyio
async def test_neither_the_caller_nor_the_ledger_gets_it(tmp_path: Path) -> None:
    async with rig(tmp_path) as gate:
        gate.purse.secret = SECRET
        answer = await replace(gate.gateway, tools=Echo()).carry_out(gate.asked("desk.write"))

    assert answer.outcome == Done(value={"number": 1, "told": "[withheld]"})
    assert secrets_under(tmp_path, ["correct-horse"]) == []


@pytest.mark.anyio
async def test_what_a_look_up_finds_does_not_tell_it_either(tmp_path: Path) -> None:
    async with rig(tmp_path, duplicates="query") as gate:
        gate.purse.secret = SECRET
        gate.desk.behaviour = "unknown"
        asked = gate.asked("desk.write", key="a-key-of-16-chars-or-more")
        await gate.gateway.carry_out(asked)
        finding = replace(gate.gateway.reconciler, tools=Echo())
        found = await replace(gate.gateway, reconciler=finding).carry_out(replace(asked, id="c2"))

    assert found.outcome == Done(value={"number": 1, "told": "[withheld]"})
    assert secrets_under(tmp_path, ["correct-horse"]) == []


@pytest.mark.anyio
async def test_neither_progress_nor_memory_holds_it(tmp_path: Path) -> None:
    told: list[str | None] = []

    async def progress(done: float, total: float | None = None, message: str | None = None, /) -> None:
        del done, total
        told.append(message)

    async with rig(tmp_path) as gate:
        gate.purse.secret = SECRET
        asked = gate.asked("desk.write", key="a-key-of-16-chars-or-more")
        await replace(gate.gateway, tools=Chatty()).carry_out(asked, progress)

    assert told == ["asked with [withheld]"]
    assert secrets_under(tmp_path, ["correct-horse"]) == []
