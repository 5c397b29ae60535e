"""A gate and its witnesses: what they cosign, what waits for them, and what they find out."""

import json
import shutil
import sqlite3
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.running_gate import Gate, running, say, wait_until
from tests.witnesses import RunningWitness, ledger_key_of, let_witness, mark_witnessed, witnessing
from toolgate.core.note import Checkpoint, Note


@pytest.fixture
def three(root: Path, tmp_path: Path) -> Generator[list[RunningWitness]]:
    """Three witnesses of the deployment's ledger, of which two are the quorum."""
    with ExitStack() as open_ones:
        key = ledger_key_of(root)
        names = ("w1", "w2", "w3")
        made = [witnessing(tmp_path / name, name, key, starts=False) for name in names]
        witnesses = [open_ones.enter_context(each) for each in made]
        with ThreadPoolExecutor() as pool:
            list(pool.map(RunningWitness.start, witnesses))
        let_witness(root, "2", *witnesses)
        yield witnesses


@pytest.fixture
def port(root: Path) -> int:
    return say(root, "checkpoint_seconds = 0.1")


def standing(gate: Gate) -> dict[str, Any]:
    with closing(gate.connect()) as connection:
        connection.request("GET", "/readyz")
        said: dict[str, Any] = json.loads(connection.getresponse().read())["witnesses"]
        return said


def entries(root: Path, kind: str = "") -> list[dict[str, Any]]:
    with closing(sqlite3.connect(root / "data" / "toolgate.db")) as ledger:
        rows = ledger.execute("SELECT body FROM ledger_entry ORDER BY idx").fetchall()
    bodies: list[dict[str, Any]] = [json.loads(row[0]) for row in rows]
    return [body for body in bodies if not kind or body["kind"] == kind]


def code_of(result: dict[str, Any]) -> str:
    error: dict[str, str] = result.get("_meta", {}).get("dev.toolgate/error", {})
    return error.get("code", "")


def notes_of(root: Path) -> list[str]:
    with closing(sqlite3.connect(root / "data" / "notes.db")) as notes:
        return [row[0] for row in notes.execute("SELECT text FROM note ORDER BY id")]


def test_every_checkpoint_gets_its_cosignatures(root: Path, port: int, three: list[RunningWitness]) -> None:
    with running(root, port) as gate:
        gate.call("notes_add", text="a")
        published = Checkpoint.parse(Note.parse((root / "data" / "checkpoint").read_text("utf-8")).text)
        wait_until(lambda: standing(gate)["covered"] >= published.size, "the quorum has cosigned")
        wait_until(
            lambda: {each["standing"] for each in standing(gate)["each"].values()} == {"cosigns"}, "all three"
        )
        assert standing(gate)["quorum"]
    policy = (root / "witnesses.policy").read_bytes()
    assert entries(root, "config")[-1]["digests"]["witnesses"] == sha256(policy).hexdigest()


def test_a_witnessed_tool_waits_for_the_quorum_and_no_other(
    root: Path, port: int, three: list[RunningWitness]
) -> None:
    mark_witnessed(root, "add", timeout=3)
    with running(root, port) as gate:
        three[0].stop()
        assert not gate.call("notes_add", text="two of three").get("isError")
        intent = entries(root, "intent")[-1]
        known = [witness for witness in three if witness.process is not None]
        three[1].stop()
        refused = gate.call("notes_add", text="one of three")
        assert code_of(refused) == "not_witnessed"
        assert not gate.call("notes_search").get("isError"), "others go on"
        assert notes_of(root)[-1] == "two of three"
        end = entries(root, "outcome")
        assert [each["status"] for each in end].count("not_witnessed") == 1
        three[1].start()
        assert not gate.call("notes_add", text="again two").get("isError")
        assert notes_of(root)[-1] == "again two"
        assert len(known) == 2
        assert intent["tool"] == "notes.add"
        assert "w1 does not cosign: it does not answer" in gate.log()


def test_the_act_comes_after_the_cosignature_of_its_intent(
    root: Path, port: int, three: list[RunningWitness]
) -> None:
    mark_witnessed(root, "add")
    with running(root, port) as gate:
        for number in range(5):
            gate.call("notes_add", text=f"{number}")
            with closing(sqlite3.connect(root / "data" / "toolgate.db")) as ledger:
                intent, end = ledger.execute(
                    "SELECT refers, idx FROM ledger_entry WHERE kind = 'outcome' ORDER BY idx DESC LIMIT 1"
                ).fetchone()
                sizes = ledger.execute(
                    "SELECT size FROM ledger_cosignature WHERE size > ? AND size <= ? GROUP BY size "
                    "HAVING count(*) >= 2",
                    (intent, end),
                ).fetchall()
            assert sizes, f"no checkpoint between intent {intent} and outcome {end} has the quorum"


def test_a_restored_old_copy_gets_no_cosignature_and_says_so(
    root: Path, tmp_path: Path, port: int, three: list[RunningWitness]
) -> None:
    """Database and checkpoint file are both old, so nothing on this machine shows that entries are gone."""
    mark_witnessed(root, "add")
    with running(root, port) as gate:
        gate.call("notes_add", text="kept")
    old = shutil.copytree(root / "data", tmp_path / "old")
    with running(root, port) as gate:
        for number in range(20):
            gate.call("notes_add", text=f"lost {number}")
        before = standing(gate)["covered"]
        wait_until(lambda: standing(gate)["covered"] >= before, "it is cosigned")
    shutil.rmtree(root / "data")
    shutil.copytree(old, root / "data")

    with running(root, port) as gate:
        wait_until(
            lambda: {each["standing"] for each in standing(gate)["each"].values()} == {"rolled_back"},
            "all witnesses have said that entries are gone",
        )
        assert not standing(gate)["quorum"]
        refused = gate.call("notes_add", text="after")
        assert code_of(refused) == "not_witnessed"
        assert "the database is an old copy" in json.dumps(refused)
        assert not gate.call("notes_search").get("isError"), "others go on"
        assert "after" not in notes_of(root)
        assert gate.log().count("REFUSES TO COSIGN") == 3, "once for each, and not each time"
        said = [fault for fault in entries(root, "fault") if fault["status"] == "witness_rolled_back"]
        assert [fault["detail"]["witness"] for fault in said] != []
        assert len({fault["detail"]["witness"] for fault in said}) == 3 == len(said)
        assert all(fault["detail"]["known"] > fault["detail"]["ours"] for fault in said)
        for number in range(60):  # until there are more than the witnesses know of the other history
            gate.call("notes_search", contains=f"{number}")
        wait_until(
            lambda: {each["standing"] for each in standing(gate)["each"].values()} == {"forked"},
            "all witnesses have said that the ledger is another one",
        )
        assert code_of(gate.call("notes_add", text="after")) == "not_witnessed"
        assert "are not the first of the" in gate.log()
    assert {fault["status"] for fault in entries(root, "fault")} == {"witness_rolled_back", "witness_forked"}


def test_of_two_copies_that_go_on_one_is_cosigned_and_the_other_says_that_it_is_a_fork(
    root: Path, tmp_path: Path, three: list[RunningWitness]
) -> None:
    mark_witnessed(root, "add")
    port = say(root, "checkpoint_seconds = 0.1")
    with running(root, port) as gate:
        gate.call("notes_add", text="common")
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    settings = copy / "toolgate.toml"
    settings.write_text(settings.read_text("utf-8").replace(f"port = {port}", f"port = {port + 1}"), "utf-8")
    with running(root, port) as gate, running(copy, port + 1) as other:
        outcomes = {"one": gate.call("notes_add", text="one"), "two": other.call("notes_add", text="two")}
        went = {name for name, result in outcomes.items() if not result.get("isError")}
        assert len(went) <= 1, "a history that the quorum has not seen got a cosigned intent"
        for again in range(3):
            for number in range(30):
                gate.call("notes_search", contains=f"{number}")
            gate.call("notes_add", text=f"again {again}")
        wait_until(
            lambda: (
                {"forked", "rolled_back"}
                & {each["standing"] for one in (gate, other) for each in standing(one)["each"].values()}
            ),
            "one of them has heard that there is another",
        )
        quorums = [standing(one)["quorum"] for one in (gate, other)]
        wait_until(
            lambda: [standing(one)["quorum"] for one in (gate, other)].count(True) == 1,
            f"one of them has the quorum, and not both ({quorums})",
        )
        losing = other if standing(gate)["quorum"] else gate
        assert code_of(losing.call("notes_add", text="lost")) == "not_witnessed"
        assert not losing.call("notes_search").get("isError")
        assert any(fault["status"].startswith("witness_") for fault in entries(losing.root, "fault"))
        assert "REFUSES TO COSIGN" in losing.log()


def test_many_calls_that_wait_share_what_is_asked(root: Path, port: int, three: list[RunningWitness]) -> None:
    mark_witnessed(root, "search")
    with running(root, port) as gate:
        gate.call("notes_search", contains="warm")
        before = three[0].log().count("add-checkpoint: 200")
        with ThreadPoolExecutor(16) as pool:
            waiting = [pool.submit(gate.call, "notes_search", contains=f"{n}") for n in range(64)]
            results = [each.result() for each in waiting]
        asked = three[0].log().count("add-checkpoint: 200") - before
    assert not any(result.get("isError") for result in results)
    assert asked < 48, f"{asked} questions for 64 calls"


def test_a_gate_that_ends_does_not_wait_for_witnesses(
    root: Path, port: int, three: list[RunningWitness]
) -> None:
    mark_witnessed(root, "add", timeout=600)
    settings = root / "toolgate.toml"
    settings.write_text("shutdown_seconds = 0.5\n" + settings.read_text("utf-8"), "utf-8")
    for witness in three:
        witness.kill()
    with running(root, port) as gate, closing(gate.connect()) as connection:
        gate.ask(connection, "notes_add", text="never")
        wait_until(lambda: entries(root, "intent"), "the intent is durable")
        gate.process.terminate()
        gate.process.wait(timeout=30)
    assert [end["status"] for end in entries(root, "outcome")] == ["not_witnessed"]
    assert "never" not in notes_of(root)


def test_a_witness_may_die_between_keeping_and_answering(
    root: Path, port: int, three: list[RunningWitness]
) -> None:
    """The gate did not hear that the witness knows its newest checkpoint, and takes its word for it later."""
    mark_witnessed(root, "add", timeout=30)
    let_witness(root, "all", *three)
    with running(root, port) as gate:
        assert not gate.call("notes_add", text="first").get("isError")
        three[0].stop()
        three[0].start_mortal()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(gate.call, "notes_add", text="second")
            assert three[0].process is not None
            three[0].process.wait(timeout=30)
            three[0].process = None
            three[0].start()
            assert not waiting.result(timeout=60).get("isError")
        assert entries(root, "fault") == []
    assert notes_of(root)[-2:] == ["first", "second"]


def test_several_gates_of_one_ledger_are_no_fork(root: Path, port: int, three: list[RunningWitness]) -> None:
    """Each asks for checkpoints of its own, and finds that the other was faster: that is no contradiction."""
    mark_witnessed(root, "add", timeout=20)
    beside = {"TOOLGATE_PORT": f"{port + 1}", "TOOLGATE_PUBLIC_URL": f"http://127.0.0.1:{port}/mcp"}
    with (
        running(root, port) as one,
        running(root, port + 1, environment=beside, log="two.log") as two,
        ThreadPoolExecutor(8) as pool,
    ):
        gates = [one, two] * 20
        waiting = [pool.submit(gate.call, "notes_add", text=f"{n}") for n, gate in enumerate(gates)]
        results = [each.result() for each in waiting]
        assert [code_of(result) for result in results if result.get("isError")] == []
        assert {each["standing"] for gate in (one, two) for each in standing(gate)["each"].values()} == {
            "cosigns"
        }
    assert entries(root, "fault") == []
    assert len(notes_of(root)) == 1 + len(gates)


def test_a_cosigned_checkpoint_of_another_history_in_the_database_vouches_for_nothing(
    root: Path, tmp_path: Path, port: int, three: list[RunningWitness]
) -> None:
    """Whoever puts an old copy back may put the later checkpoints in it, with all that witnesses said."""
    mark_witnessed(root, "add", timeout=2)
    with running(root, port) as gate:
        gate.call("notes_add", text="kept")
    old = shutil.copytree(root / "data", tmp_path / "old")
    with running(root, port) as gate:
        for number in range(5):
            gate.call("notes_add", text=f"lost {number}")
    with closing(sqlite3.connect(old / "toolgate.db")) as ledger, ledger:
        ledger.execute("ATTACH ? AS later", (f"{root / 'data' / 'toolgate.db'}",))
        for table in ("ledger_checkpoint", "ledger_cosignature"):
            ledger.execute(f"INSERT OR IGNORE INTO {table} SELECT * FROM later.{table}")  # noqa: S608
    shutil.rmtree(root / "data")
    shutil.copytree(old, root / "data")

    with running(root, port) as gate:
        for number in range(3):
            assert code_of(gate.call("notes_add", text=f"after {number}")) == "not_witnessed"
        assert not any(text.startswith("after") for text in notes_of(root))


def test_a_witness_that_has_forgotten_is_told_of_and_one_that_comes_back_is_trusted_again(
    root: Path, port: int, three: list[RunningWitness]
) -> None:
    with running(root, port) as gate:
        gate.call("notes_search")
        wait_until(lambda: standing(gate)["each"]["w1"]["cosigned"], "it has cosigned")
        three[0].stop()
        three[0].forget()
        three[1].stop()
        wait_until(
            lambda: gate.call("notes_search") and standing(gate)["each"]["w2"]["standing"] == "silent", "w2"
        )
        three[0].start()
        three[1].start()
        wait_until(lambda: "witness w1 has forgotten" in gate.log(), "the gate says so")
        wait_until(lambda: "witness w2 cosigns again" in gate.log(), "the gate says that it is back")
    assert entries(root, "fault") == []
