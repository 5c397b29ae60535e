"""What stands in the ledger: the form that its reference promises, and nothing that names a person."""

import json
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Client
from tests.gate_on_scripted_system import ANN, rig
from tests.serving import serving
from toolgate.backends.ledger_entries import FORM, entry_of
from toolgate.cli.local import named_caller
from toolgate.core.call import Caller
from toolgate.core.canonical import canonical
from toolgate.core.outcome import Done
from toolgate.main import House, now, open_house

pytestmark = pytest.mark.anyio
KIM = Caller(
    subject="kim.lee@example.com",
    issuer="https://id.example.com",
    tenant="acme",
    client="kims-laptop",
    roles=frozenset({"worker"}),
    act=("robin@example.com",),
)


def bodies(database: Path, kind: str | None = None) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT body FROM ledger_entry ORDER BY idx").fetchall()
    found = [json.loads(row[0]) for row in rows]
    return [body for body in found if kind in {None, body["kind"]}]


async def test_entries_hold_pseudonyms_and_commitments_in_place_of_persons_and_values(tmp_path: Path) -> None:
    async with rig(tmp_path) as gate:
        await gate.call("desk.destroy", caller=KIM, key="a-key-that-names-kim", amount=4711)
        await gate.call("desk.kims-secret-tool", caller=KIM)
    leaves = json.dumps(bodies(tmp_path / "ledger.db"))

    for clear in ("kim", "lee@", "robin", "4711", "laptop", "id.example.com"):
        assert clear not in leaves, clear
    (intent,) = bodies(tmp_path / "ledger.db", "intent")
    assert intent["who"].startswith("p")
    assert intent["arguments"].keys() == {"hmac", "length"}
    assert len(intent["act"]) == 1


async def test_one_person_has_one_pseudonym_and_two_have_two(tmp_path: Path) -> None:
    async with rig(tmp_path) as gate:
        for caller in (ANN, ANN, KIM):
            await gate.call(caller=caller)
    async with rig(tmp_path) as gate:
        await gate.call(caller=ANN)

    who = [body["who"] for body in bodies(tmp_path / "ledger.db", "intent")]
    assert who[0] == who[1] == who[3] != who[2]


names = st.text(st.characters(codec="ascii", categories=["Ll", "Lu"]), min_size=1, max_size=8)
leaves = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text()
values = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(names, inner), max_leaves=8)


@given(
    st.dictionaries(names.filter(lambda name: name < "writer"), values, min_size=1),
    st.integers(0, 2**53 - 1),
)
def test_a_body_is_canonical_whatever_it_says(fields: dict[str, Any], wseq: int) -> None:
    body: dict[str, Any] = {"v": FORM, "kind": "x", "at": 1, "status": "y"} | fields
    writer = "0123456789abcdef-0"

    assert entry_of(body).body(writer, wseq) == canonical(body | {"writer": writer, "wseq": wseq})


async def test_what_governs_is_recorded_when_it_changes_and_calls_point_to_it(root: Path) -> None:
    async with open_house(root) as house:
        await call(house)
    async with open_house(root) as house:
        await call(house)
        rules = root / "policies" / "rules.csv"
        rules.write_text(
            rules.read_text("utf-8") + "p, X1, deny, nobody, *, notes.add, *, -, -, -\n", "utf-8"
        )
        assert await house.reload() == []
        await call(house)
    with (root / "toolgate.toml").open("a", encoding="utf-8") as settings:
        settings.write("\n[callers.new]\nsubject = 'new'\ntenant = 'home'\n")
    async with open_house(root) as house:
        await call(house)

    database = root / "data" / "toolgate.db"
    first, second, third = bodies(database, "config")
    assert first["digests"].keys() == {"policy", "registry", "settings", "adapters", "keys", "lock"}
    assert {k for k in first["digests"] if first["digests"][k] != second["digests"][k]} == {"policy"}
    assert {k for k in second["digests"] if second["digests"][k] != third["digests"][k]} == {"settings"}
    at = {index: body["kind"] for index, body in enumerate(bodies(database))}
    points = [body["config"] for body in bodies(database, "intent")]
    assert all(at[point] == "config" for point in points)
    assert points[0] == points[1] < points[2] < points[3]


async def call(house: House) -> None:
    answer = await Client(house, named_caller(house.settings, "member")).call("notes.search")
    assert isinstance(answer.outcome, Done)


def test_refused_tokens_are_counted_and_their_sources_are_not_in_the_tree(root: Path) -> None:
    with serving(root) as gate:
        for _ in range(5):
            assert gate.post(b"{}", Authorization="Bearer no.such.token").status_code == 401
        assert gate.post(b"{}", Authorization="").status_code == 401, "no token at all is no failure"

    database = root / "data" / "toolgate.db"
    (failures,) = bodies(database, "auth_failure")
    assert failures["count"] == 5
    assert sum(failures["reasons"].values()) == 5
    assert "127.0.0.1" not in json.dumps(bodies(database))
    with closing(sqlite3.connect(database)) as connection:
        kept = connection.execute("SELECT value FROM payload WHERE field = 'source'").fetchone()
    assert kept == (b'"127.0.0.1"',)


async def test_a_step_of_the_clock_is_an_entry(tmp_path: Path) -> None:
    stepped = timedelta()
    async with rig(tmp_path, clock=lambda: now() + stepped) as gate:
        await gate.call()
        stepped = timedelta(hours=-1)
        await gate.call()
        await gate.call()

    (fault,) = bodies(tmp_path / "ledger.db", "fault")
    assert fault["status"] == "clock_step"
    assert -3_601_000 < fault["detail"]["by_ms"] < -3_599_000
