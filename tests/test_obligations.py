"""What rules oblige to: at the result, at a replay of it, and in the ledger; and rules that look at a run."""

import asyncio
import json
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.gate_on_scripted_system import rig
from toolgate.backends.keystore import Keystore, KeystoreSource
from toolgate.backends.lending import Lending
from toolgate.core.obligations import MASKED, Obligations, together
from toolgate.core.outcome import Done, Failed, Refused
from toolgate.core.record import Json, JsonObject
from toolgate.web.present import spelled

pytestmark = pytest.mark.anyio
KEY = "a-key-of-16-chars-or-more"
ALLOW = "p, W1, allow, worker, acme, desk.*, *, -, -, -\n"
MASK = "p, O1, oblige, worker, acme, desk.*, *, -, -, mask=number\n"
ONCE_A_RUN = ALLOW + "p, D1, deny, *, acme, desk.write, *, \"count('desk.write') >= 3\", -, -\n"


def bodies(folder: Path, kind: str) -> list[JsonObject]:
    with closing(sqlite3.connect(folder / "ledger.db")) as connection:
        query = "SELECT body FROM ledger_entry WHERE kind = ? ORDER BY idx"
        return [json.loads(row[0]) for row in connection.execute(query, (kind,))]


def kept(folder: Path) -> set[str]:
    with closing(sqlite3.connect(folder / "ledger.db")) as connection:
        rows = connection.execute("SELECT DISTINCT field FROM payload WHERE value IS NOT NULL")
        return {row[0] for row in rows}


@pytest.mark.parametrize(
    ("result", "seen"),
    [
        ({"email": "a@b"}, {"email": MASKED}),
        ({"email": None}, {"email": None}),
        ({"email": 7, "id": 7}, {"email": None, "id": 7}),
        ({"email": ["a", "b"]}, {"email": []}),
        ({"email": {"home": "a@b"}}, {"email": None}),
        ({"rows": [{"email": "a@b", "id": 1}]}, {"rows": [{"email": MASKED, "id": 1}]}),
        ({"a": {"b": {"email": "a@b"}}}, {"a": {"b": {"email": MASKED}}}),
        ({"emails": "a@b"}, {"emails": "a@b"}),
    ],
)
def test_a_masked_field_is_hidden_wherever_it_is(result: JsonObject, seen: JsonObject) -> None:
    assert Obligations(mask=frozenset({"email"})).on(result) == seen


@pytest.mark.parametrize(
    ("result", "seen"),
    [
        ({"rows": [1, 2, 3], "total": 3}, {"rows": [1, 2], "total": 3}),
        ({"rows": [1]}, {"rows": [1]}),
        ({"deep": {"rows": [1, 2, 3]}}, {"deep": {"rows": [1, 2, 3]}}),
    ],
)
def test_lists_at_the_top_of_a_result_are_cut(result: JsonObject, seen: JsonObject) -> None:
    assert Obligations(rows=2).on(result) == seen


def test_together_the_strictest_of_each_kind_holds() -> None:
    first = Obligations(frozenset({"a"}), 10, "arguments", dynamic=True)
    second = Obligations(frozenset({"b"}), 3, "digests")

    for order in ((first, second, Obligations()), (Obligations(), second, first)):
        assert together(order) == Obligations(frozenset({"a", "b"}), 3, "digests", dynamic=True)
    assert together([second, Obligations()]) == second
    assert Obligations(capture="full").least("digests") == "digests", "never more than the manifest says"


async def test_a_caller_gets_the_masked_result_and_the_ledger_keeps_the_whole(tmp_path: Path) -> None:
    async with rig(tmp_path, rules=ALLOW + MASK) as gate:
        answer = await gate.call(amount=5)

    assert isinstance(answer.outcome, Done)
    assert answer.outcome.value == {"number": None}
    said = spelled(answer, "desk.write")
    assert "mask=number" in str(said["content"])
    assert bodies(tmp_path, "intent")[0]["obligations"] == ["mask=number"]
    assert bodies(tmp_path, "intent")[0]["rules"] == ["O1", "W1"]


async def test_a_replay_is_masked_by_the_rules_in_force_when_it_is_asked_for(tmp_path: Path) -> None:
    async with rig(tmp_path, rules=ALLOW) as gate:
        first = await gate.call(amount=5, key=KEY)
        gate.enforce(ALLOW + MASK)
        masked = await gate.call(amount=5, key=KEY)
        gate.enforce(ALLOW)
        whole = await gate.call(amount=5, key=KEY)

    values = [answer.outcome.value for answer in (first, masked, whole) if isinstance(answer.outcome, Done)]
    assert values == [{"number": 5}, {"number": None}, {"number": 5}]
    assert masked.replayed
    assert gate.desk.effects == 1


@pytest.mark.parametrize(
    ("capture", "fields"),
    [
        ("full", {"arguments", "caller", "result"}),
        ("arguments", {"arguments", "caller"}),
        ("digests", set[str]()),
        ("metadata", set[str]()),
    ],
)
async def test_a_rule_lessens_what_the_ledger_keeps(tmp_path: Path, capture: str, fields: set[str]) -> None:
    async with rig(
        tmp_path, rules=ALLOW + f"p, O1, oblige, *, acme, *, *, -, -, capture={capture}\n"
    ) as gate:
        await gate.call(amount=5)

    assert kept(tmp_path) == fields
    assert ("arguments" in bodies(tmp_path, "intent")[0]) == (capture != "metadata")


async def test_a_rule_refuses_a_credential_that_outlives_the_call(tmp_path: Path) -> None:
    dynamic = "p, O1, oblige, *, acme, desk.write, *, args.amount > 3, -, {}credential=dynamic\n"
    Keystore.create(tmp_path / "keystore.json", passphrase=None, dev=True)
    keystore = Keystore(tmp_path / "keystore.json", passphrase=None, dev=True)
    keystore.set("s", SecretStr("secret"))
    async with rig(tmp_path, rules=ALLOW + dynamic.format("")) as gate:
        gate.gateway = replace(gate.gateway, vault=Lending({"file": KeystoreSource(keystore)}))
        allowed = await gate.call(amount=3)
        refused = await gate.call(amount=4)
        gate.enforce(ALLOW + dynamic.format("capture=digests; "))
        kept_less = await gate.call(amount=5)
        gate.enforce(ALLOW)
        again = await gate.call(amount=4)

    assert isinstance(allowed.outcome, Done)
    assert isinstance(again.outcome, Done)
    for answer in (refused, kept_less):
        assert isinstance(answer.outcome, Failed)
        assert (answer.outcome.code, answer.outcome.retryable) == ("static_credential", False)
    assert gate.desk.effects == 2
    obliged = [body.get("obligations") for body in bodies(tmp_path, "intent")]
    assert obliged == [None, ["credential=dynamic"], ["capture=digests", "credential=dynamic"], None]


async def test_a_caller_is_not_told_what_is_no_part_of_the_result(tmp_path: Path) -> None:
    duties = "p, O1, oblige, *, acme, *, *, -, -, mask=number; capture=digests; credential=dynamic\n"
    async with rig(tmp_path, rules=ALLOW + duties) as gate:
        answer = await gate.call(amount=5)

    assert answer.hidden == ("mask=number",)


async def test_a_refused_call_is_kept_no_more_than_its_rules_say(tmp_path: Path) -> None:
    rules = (
        ALLOW
        + "p, D1, deny, *, *, *, *, args.amount > 3, -, -\np, O1, oblige, *, *, *, *, -, -, capture=digests\n"
    )
    async with rig(tmp_path, rules=rules) as gate:
        refused = await gate.call(amount=5)

    assert isinstance(refused.outcome, Refused)
    assert kept(tmp_path) == set()
    assert bodies(tmp_path, "refusal")[0]["obligations"] == ["capture=digests"]


async def test_a_shadow_rule_changes_nothing_and_is_recorded_where_it_would_have(tmp_path: Path) -> None:
    rules = ALLOW + "p, S1, shadow-deny, *, *, *, *, args.amount > 3, -, -\n"
    async with rig(tmp_path, rules=rules) as gate:
        flipped = await gate.call(amount=5)
        alike = await gate.call(amount=2)

    assert isinstance(flipped.outcome, Done)
    assert isinstance(alike.outcome, Done)
    recorded: list[Json] = [body.get("shadow") for body in bodies(tmp_path, "intent")]
    policy = gate.gateway.rulebook().policy.digest
    assert recorded == [{"verdict": "deny", "rules": ["S1"], "policy": policy}, None]


async def test_a_rule_counts_the_calls_of_a_run_and_of_no_other(tmp_path: Path) -> None:
    async with rig(tmp_path, rules=ONCE_A_RUN) as gate:
        inside = [await gate.call(amount=n, run="run-1") for n in range(3)]
        beyond = await gate.call(amount=4, run="run-1")
        other = await gate.call(amount=4, run="run-2")
        nowhere = await gate.call(amount=4)

    assert all(isinstance(answer.outcome, Done) for answer in (*inside, other))
    assert isinstance(beyond.outcome, Refused)
    assert isinstance(nowhere.outcome, Refused), "nobody can tell what a call that names no run did before"
    assert bodies(tmp_path, "refusal")[1]["unknown_rules"] == ["D1"]


async def test_calls_of_a_run_that_come_at_once_do_not_slip_under_its_limit(tmp_path: Path) -> None:
    async with rig(tmp_path, rules=ONCE_A_RUN) as gate:
        answers = await asyncio.gather(*(gate.call(amount=n, run="run-1") for n in range(12)))

    done = [answer for answer in answers if isinstance(answer.outcome, Done)]
    assert len(done) == gate.desk.effects == 3


async def test_a_replay_in_a_run_is_no_further_call(tmp_path: Path) -> None:
    async with rig(tmp_path, rules=ONCE_A_RUN) as gate:
        for number in range(3):
            await gate.call(amount=number, key=f"{KEY}-{number}", run="run-1")
        again = await gate.call(amount=2, key=f"{KEY}-2", run="run-1")
        more = await gate.call(amount=3, key=f"{KEY}-3", run="run-1")

    assert again.replayed
    assert isinstance(again.outcome, Done)
    assert isinstance(more.outcome, Refused)


async def test_a_shadow_rule_that_counts_keeps_nobody_from_calling(tmp_path: Path) -> None:
    rules = ALLOW + "p, S1, shadow-deny, *, acme, *, *, count('desk.write') >= 3, -, -\n"
    async with rig(tmp_path, rules=rules) as gate:
        answers = await asyncio.gather(*(gate.call(amount=n, run="run-1") for n in range(60)))
        later = await gate.call(amount=99, run="run-1")

    assert all(isinstance(answer.outcome, Done) for answer in (*answers, later))
    assert bodies(tmp_path, "intent")[-1]["shadow"] is not None


async def test_many_calls_of_a_run_at_once_are_all_judged(tmp_path: Path) -> None:
    rules = ALLOW + "p, D1, deny, *, acme, *, *, count('desk.write') >= 100, -, -\n"
    async with rig(tmp_path, rules=rules) as gate:
        answers = await asyncio.gather(*(gate.call(amount=n, run="run-1") for n in range(150)))

    codes = Counter(getattr(answer.outcome, "code", "done") for answer in answers)
    assert codes == {"done": 100, "forbidden": 50}


@pytest.mark.parametrize("fault", ["key", "arguments", "scope"])
async def test_a_call_that_no_rule_has_judged_is_kept_by_its_name_alone(tmp_path: Path, fault: str) -> None:
    async with rig(tmp_path, rules=ALLOW) as gate:
        if fault == "scope":
            tool = gate.tools["desk.write"]
            object.__setattr__(tool, "terms", tool.terms.model_copy(update={"scopes": frozenset({"x"})}))
        amount = "much" if fault == "arguments" else 1
        refused = await gate.call(amount=amount, key="short" if fault == "key" else None)

    assert isinstance(refused.outcome, Refused)
    assert kept(tmp_path) == set()


async def test_each_of_two_holds_names_its_approver(tmp_path: Path) -> None:
    holds = "p, H1, deny, *, *, *, *, -, approval:boss, -\np, H2, deny, *, *, *, *, -, approval:finance, -\n"
    async with rig(tmp_path, rules=ALLOW + holds) as gate:
        held = await gate.call()

    assert isinstance(held.outcome, Refused)
    assert "by boss and finance" in held.outcome.detail
