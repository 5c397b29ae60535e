"""A witness of logs: it cosigns what only adds, keeps that before it says so, and cosigns nothing else."""

import http.client
import random
import sqlite3
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.ledgers import Signer
from tests.shell import document, done, faults, run
from tests.witnesses import Log, RunningWitness, Said, witnessing
from toolgate.backends.cosigning import WitnessKey
from toolgate.backends.witness_state import Witness, new_state
from toolgate.core.note import COSIGNATURE, VerifierKey
from toolgate.core.witness import Cosigned, Stale, Submission

LINE = "\u2014 "


@pytest.fixture
def log() -> Log:
    return Log().grow(5)


@pytest.fixture
def witness(tmp_path: Path, log: Log) -> Generator[RunningWitness]:
    with witnessing(tmp_path / "w1", "w1", log.key) as running:
        yield running


def hash_of(log: Log) -> str:
    return sha256(log.note().text.partition("\n")[0].encode()).hexdigest()


def test_it_cosigns_a_log_that_grows(witness: RunningWitness, log: Log) -> None:
    assert witness.ask("GET", f"/{hash_of(log)}/checkpoint").status == 404
    assert witness.cosigned(log.asks(0))
    assert witness.cosigned(log.asks(5)), "again, for whoever did not hear it"
    assert witness.cosigned(log.grow(6).asks(5))
    assert witness.cosigned(log.grow(300).asks(6))

    newest = witness.ask("GET", f"/{hash_of(log)}/checkpoint")
    assert newest.body.startswith(log.note().text)
    assert newest.body.count(LINE) == 2, "the log's line and the witness's"
    assert "add-checkpoint: 200, ledger.example/desk: 300, after 6" in witness.log()


def test_each_refusal_is_the_one_of_the_specification(witness: RunningWitness, log: Log) -> None:
    assert witness.cosigned(log.asks(0))
    log.grow(8)
    good = f"{log.asks(5)}"
    asked = log.asks(5)
    other = log.copy()
    other.leaves[3] = bytes(32)
    stranger = Log(signer=Signer(9)).grow(5)
    longer = Submission(5, (bytes(32),) * 64, asked.note, asked.checkpoint)
    forged = good[:-20] + ("A" if good[-20] != "A" else "B") + good[-19:]
    answers = {
        "no old size": good.partition("\n")[2],
        "old with a zero before": good.replace("old 5", "old 05"),
        "old is no number": good.replace("old 5", "old five"),
        "no empty line": good.replace("\n\n", "\n"),
        "a hash that is none": good.replace("old 5\n", "old 5\nAAAA\n"),
        "64 hashes": f"{longer}",
        "no signature": log.note().text,
        "a tab in it": good.replace("old 5\n", "old 5\n\t\n"),
        "an empty line in the checkpoint": good.replace(
            f"\n{log.note().text}", f"\n{log.note().text}\n\nx\n"
        ),
        "old is larger": f"{log.asks(9, 8)}",
    }
    for why, body in answers.items():
        assert witness.add(body.encode()).status == 400, why
    assert witness.add(b"\xff").status == 400
    assert witness.add(b"old 5\n" + b"A" * 70_000).status == 413
    assert witness.add(forged.encode()).status == 403
    assert witness.add(f"{stranger.asks(0)}".encode()).status == 403, "the same name, another key"
    unknown = good.replace("example/desk", "example/else")
    assert witness.add(unknown.encode()).status == 404
    assert witness.add(log.asks(0)) == Said(409, "text/x.tlog.size", "5\n")
    assert witness.add(log.asks(4)) == Said(409, "text/x.tlog.size", "5\n")
    assert witness.add(other.asks(5)).status == 422, "entry 3 was changed"
    assert witness.add(other.asks(5, 5)).status == 422, "of the same size, with another root"
    assert witness.add(Submission(5, (), asked.note, asked.checkpoint)).status == 422
    assert witness.ask("GET", "/add-checkpoint").status == 405
    assert witness.ask("GET", "/nothing").status == 404
    assert witness.cosigned(asked), "none of that changed what it knows"
    assert "NOT COSIGNED" in witness.log()


def test_the_empty_tree_needs_the_empty_root_and_proves_nothing(witness: RunningWitness, log: Log) -> None:
    empty = Log()
    assert witness.add(Submission(0, (bytes(32),), log.note(), log.asks(0).checkpoint)).status == 422
    note = log.signer.note(0, bytes(32))
    assert witness.add(f"old 0\n\n{note}".encode()).status == 422
    assert witness.cosigned(empty.asks(0))
    assert witness.cosigned(log.asks(0))
    assert witness.add(empty.asks(0)).status == 409


def test_of_two_histories_one_is_cosigned_however_they_race(tmp_path: Path) -> None:
    """Eight requests at a time, by two processes on one state: a tree that was cosigned is never left."""
    log = Log().grow(1)
    with witnessing(tmp_path / "w1", "w1", log.key) as one, ThreadPoolExecutor(8) as pool:
        two = RunningWitness("w1", one.folder, one.logs, one.port + 1, one.vkey)
        two.start()
        try:
            for number in range(15):
                size = len(log.leaves)
                forks = [log.copy().grow(size + 1 + at, f"{number}-{at}-") for at in range(8)]
                asked = [fork.asks(size if number else 0) for fork in forks]
                went = list(pool.map(RunningWitness.cosigned, (one, two) * 4, asked))
                assert sum(went) == 1, went
                log = forks[went.index(True)]
        finally:
            two.stop()


def test_killed_before_it_answers_it_has_kept_what_it_would_have_said(tmp_path: Path, log: Log) -> None:
    fork = log.copy().grow(9, "another ")
    log.grow(8)
    with witnessing(tmp_path / "w1", "w1", log.key, starts=False) as witness:
        witness.start_mortal()
        with pytest.raises((OSError, http.client.HTTPException)):
            witness.add(log.asks(0))
        witness.kill()
        witness.start()

        assert witness.add(fork.asks(0)) == Said(409, "text/x.tlog.size", "8\n")
        assert witness.add(fork.asks(8)).status == 422
        assert witness.cosigned(log.asks(8)), "who did not hear the answer gets it the second time"


def test_killed_at_any_moment_it_never_goes_back(tmp_path: Path) -> None:
    """A log that grows is cosigned all the time while its witness is killed 6 times."""
    log, chance = Log().grow(1), random.Random(5)  # noqa: S311
    cosigned = [0]
    with witnessing(tmp_path / "w1", "w1", log.key) as witness:
        for _ in range(6):
            killer = threading.Timer(chance.uniform(0.0, 0.05), witness.kill)
            killer.start()
            with suppress(OSError, http.client.HTTPException):
                while True:
                    log.grow(len(log.leaves) + 1)
                    if witness.cosigned(log.asks(cosigned[-1])):
                        cosigned.append(len(log.leaves))
            killer.join()
            witness.start()
            said = witness.add(log.asks(0) if cosigned[-1] else log.copy().asks(1))
            known = int(said.body) if said.status == 409 else 0
            assert known >= cosigned[-1]
            assert known in {cosigned[-1], len(log.leaves)}
            cosigned.append(known)
        assert len(cosigned) > 6


def test_the_state_is_one_file_that_is_not_made_anew(tmp_path: Path, log: Log) -> None:
    with witnessing(tmp_path / "w1", "w1", log.key) as witness:
        assert witness.cosigned(log.asks(0))
        assert [file.name for file in witness.folder.glob("state*")] == ["state"]
        witness.state.unlink()
        assert witness.add(log.asks(0)).status == 500, "what it knew is gone, and nothing is cosigned"
        assert "Traceback" not in witness.add(log.asks(0)).body


def test_a_log_whose_key_changes_is_known_by_both_keys(tmp_path: Path) -> None:
    old, new = Log(), Log(signer=Signer(8))
    state, key = tmp_path / "state", WitnessKey.new("w")
    new_state(state, key.verifier)
    witness = Witness(key, [old.key, new.key], state, now=lambda: 1_700_000_000.5)
    assert isinstance(witness.add(old.grow(3).asks(0)), Cosigned)
    new.leaves = list(old.leaves)
    assert isinstance(witness.add(new.grow(4).asks(3)), Cosigned)
    assert Witness(key, [new.key], state).add(new.asks(0)) == Stale(4), "it is one log"


def test_a_cosignature_is_what_the_specification_says(tmp_path: Path) -> None:
    """Byte by byte, with the specification's own words (tlog-cosignature, "Ed25519 signed message")."""
    log, key = Log().grow(2), WitnessKey.new("witness.example.com/w1")
    line = key.cosign(log.note().text, 1_679_315_147)
    spelled = b"cosignature/v1\ntime 1679315147\n" + log.note().text.encode()
    id_ = sha256(b"witness.example.com/w1\n\x04" + key.verifier.public).digest()[:4]

    assert line.key_id == id_
    assert line.signature[:8] == (1_679_315_147).to_bytes(8, "big")
    Ed25519PublicKey.from_public_bytes(key.verifier.public).verify(line.signature[8:], spelled)


def test_a_key_is_made_once_with_its_state_and_shown(tmp_path: Path) -> None:
    file, state = tmp_path / "keys" / "witness.key", tmp_path / "state"

    def words(name: str, key: Path, its: Path) -> list[str]:
        return ["ledger", "witness-key", name, "--key", f"{key}", "--state", f"{its}"]

    vkey = done(*words("witness.example/w1", file, state)).strip()
    made = state.read_bytes()

    assert VerifierKey.parse(vkey, COSIGNATURE).name == "witness.example/w1"
    assert file.with_suffix(".vkey").read_text() == f"{vkey}\n"
    assert {file.stat().st_mode & 0o777, state.stat().st_mode & 0o777} == {0o600}
    assert "there is a key already" in faults(*words("w", file, tmp_path / "state2"))
    assert "there is a file already" in faults(*words("w", tmp_path / "two.key", state))
    assert state.read_bytes() == made
    assert not (tmp_path / "state2").exists(), "a state of no key"
    assert not (tmp_path / "two.key").exists(), "a key of no state"
    assert document(*words("w", tmp_path / "two.key", tmp_path / "state2"))["name"] == "w"
    assert run(*words("a b", tmp_path / "x", tmp_path / "y")).exit_code == 2


def _emptied(state: Path) -> None:
    state.write_bytes(b"")


def _of_another_key(state: Path) -> None:
    state.unlink()
    new_state(state, WitnessKey.new("w").verifier)


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        (Path.unlink, "unable to open"),
        (_emptied, "it is empty"),
        (_of_another_key, "another witness's key"),
    ],
    ids=["gone", "of 0 bytes", "another witness's"],
)
def test_a_state_that_was_lost_is_never_made_anew(
    tmp_path: Path, log: Log, lost: Callable[[Path], object], told: str
) -> None:
    key, state, file = WitnessKey.new("w"), tmp_path / "state", tmp_path / "witness.key"
    key.write(file)
    new_state(state, key.verifier)
    assert isinstance(Witness(key, [log.key], state).add(log.asks(0)), Cosigned)

    lost(state)
    before = state.read_bytes() if state.exists() else None

    said = faults("ledger", "witness", "--key", f"{file}", "--state", f"{state}", "--log", f"{log.key}")
    assert told in said
    assert "this key must cosign no more" in said
    assert (state.read_bytes() if state.exists() else None) == before


def test_what_it_cannot_run_with_is_told(tmp_path: Path, log: Log) -> None:
    key, state = tmp_path / "witness.key", tmp_path / "state"

    def told(*words: str) -> str:
        return faults("ledger", "witness", "--key", f"{key}", "--state", f"{state}", *words)

    assert "witness-key" in told("--log", f"{log.key}")
    WitnessKey.new("w").write(key)
    assert "no file that can be read" in told("--log", "nothing")
    assert "type 0x01" in told("--log", f"{WitnessKey.new('w').verifier}")
    assert "does not have the id" in told("--log", f"{log.key}".replace("+", "+0", 1).replace("+0", "+", 0))
    (tmp_path / "empty").write_text("# nothing\n")
    assert "there is no key in it" in told("--log", f"{tmp_path / 'empty'}")
    key.chmod(0o644)
    assert "chmod 600" in told("--log", f"{log.key}")
    key.chmod(0o600)
    key.write_text("x")
    assert "no witness's key" in told("--log", f"{log.key}")
    key.unlink()
    WitnessKey.new("w").write(key)
    with closing(sqlite3.connect(state)) as other:
        other.execute("CREATE TABLE x (y)")
    assert "another program's database" in told("--log", f"{log.key}")
    state.write_text("no database, and long enough to be looked at as one" * 20)
    assert "cannot be used" in told("--log", f"{log.key}")
    state.unlink()
    new_state(state, WitnessKey.read(key).verifier)
    result = run(
        "ledger", "witness", "--key", f"{key}", "--state", f"{state}", "--log", f"{log.key}", "--listen", "x"
    )
    assert result.exit_code == 2
