"""The ledger as a folder of tiles: the form, what foreign code says of it, and what breaks off on the way."""

import base64
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import pytest
from sigstore._internal.merkle import verify_merkle_inclusion
from sigstore.models import TransparencyLogEntry
from sigstore_models.rekor.v1 import TransparencyLogEntry as Logged
from sqlalchemy import create_engine

from tests.debian import demand
from tests.ledgers import ORIGIN, ROUND, Signer, a_story, note_of, publish, write
from tests.shell import document, faults, run
from toolgate.backends import export_files
from toolgate.backends.export_tiles import Exported, export_tiles, tile_path
from toolgate.backends.sql_tables import Stored
from toolgate.backends.sqlite_files import reader
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.merkle import Frontier, inclusion_proof, leaf_hash
from toolgate.verifier import Note, Report, read_note, verify_tiles

pymerkle: Any = import_module("pymerkle")  # it has no types
OURS, NEXT, THEIRS = Signer(1), Signer(2), Signer(3)
ROUNDS: Final = 60
SIZE: Final = 4 + ROUNDS * ROUND
REPO: Final = Path(__file__).resolve().parents[1]
GO_MODULES: Final = Path("/usr/share/gocode")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid ledger of 724 entries; tests copy it."""
    database = tmp_path_factory.mktemp("told") / "ledger.db"
    write(a_story(ROUNDS), database, [(100, OURS), (300, OURS), (SIZE, OURS)])
    return database


@pytest.fixture
def database(told: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(told, tmp_path / "ledger.db"))


@pytest.fixture
def folder(database: Path, tmp_path: Path) -> Path:
    """The whole ledger, exported."""
    _export(database, tmp_path / "tiles")
    return tmp_path / "tiles"


def _export(database: Path, folder: Path) -> Exported:
    return export_tiles(reader(database), folder, lambda done, total: None)


@contextmanager
def _changing(database: Path) -> Generator[sqlite3.Connection]:
    with closing(sqlite3.connect(database)) as connection, connection:
        yield connection


def _publish_only(database: Path, *sizes: int) -> None:
    with _changing(database) as connection:
        publish(connection, [(size, OURS) for size in sizes])


def _verify(folder: Path, *, kept: str | None = None) -> Report:
    outside = Note.parse(kept) if kept else read_note(f"{folder / 'checkpoint'}")
    return verify_tiles(folder, keys=[_key(OURS)], checkpoints=[("kept", outside)])


def _key(signer: Signer) -> Any:  # noqa: ANN401 - the verifier's own class
    return import_module("toolgate.verifier").VerifierKey.parse(f"{signer.key}")


def _files(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()
    }


def _small_ledger(database: Path, size: int) -> None:
    """Write a tree of so many tiny entries; only the tree is of the ledger's form."""
    engine = create_engine(f"sqlite:///{database}")
    Stored.metadata.create_all(engine)
    engine.dispose()
    tree = Frontier()
    with _changing(database) as connection:
        for index in range(size):
            body = b"%d" % index if index else f'{{"origin":"{ORIGIN}"}}'.encode()
            leaf = leaf_hash(body)
            row = (index, leaf, "", "", 0, "", "", "", "", "", None, body)
            connection.execute(f"INSERT INTO ledger_entry VALUES ({', '.join('?' * 12)})", row)  # noqa: S608
            connection.executemany("INSERT INTO ledger_node VALUES (?, ?, ?)", tree.append(leaf))
        connection.execute("INSERT INTO ledger_tip VALUES (1, ?, ?, 0)", (size, tree.pack()))
        note = OURS.note(size, tree.root())
        connection.execute("INSERT INTO ledger_checkpoint VALUES (?, 0, ?)", (size, note))


# --- The form


def test_paths_are_those_of_the_specification() -> None:
    assert tile_path("0", 1234067) == "tile/0/x001/x234/067"
    assert tile_path("entries", 1000, 17) == "tile/entries/x001/000.p/17"
    assert tile_path("2", 0) == "tile/2/000"


def test_a_tree_of_70000_has_the_tiles_of_the_specifications_example(tmp_path: Path) -> None:
    """Tlog-tiles, "Partial Tiles": 273 full tiles of level 0 and one of 112, then 1 and 17, then 1."""
    _small_ledger(tmp_path / "small.db", 70_000)
    _export(tmp_path / "small.db", tmp_path / "tiles")
    files = _files(tmp_path / "tiles")
    full = {path: len(content) // 32 for path, content in files.items() if path.startswith("tile/0/")}

    assert sorted(full.values()) == [112] + [256] * 273
    assert full["tile/0/273.p/112"] == 112
    assert {path: len(files[path]) // 32 for path in files if path.startswith(("tile/1/", "tile/2/"))} == {
        "tile/1/000": 256,
        "tile/1/001.p/17": 17,
        "tile/2/000.p/1": 1,
    }
    report = verify_tiles(
        tmp_path / "tiles",
        keys=[_key(OURS)],
        checkpoints=[("kept", read_note(f"{tmp_path / 'tiles' / 'checkpoint'}"))],
        hashes_only=True,
    )
    assert (report.verdict, report.entries) == ("verified", 70_000)


@pytest.mark.parametrize("size", [1, 255, 256, 257, 300, 512, SIZE])
def test_every_size_is_verified(database: Path, tmp_path: Path, size: int) -> None:
    _publish_only(database, size)
    _export(database, tmp_path / "tiles")
    report = _verify(tmp_path / "tiles")

    assert (report.verdict, report.entries, report.covered) == ("verified", size, size)


def test_an_entry_that_does_not_fit_into_a_bundle_is_named(tmp_path: Path) -> None:
    database = tmp_path / "large.db"
    story = a_story(1)
    story.bodies[2]["digests"] = {"policy": "0" * 65_536}
    write(story, database, [(len(story.bodies), OURS)])

    with pytest.raises(LedgerUnavailable, match=r"entry 2 has \d+ bytes; tiles take at most 65535"):
        _export(database, tmp_path / "tiles")


# --- Foreign code


def _entries_of(folder: Path) -> list[bytes]:
    """Read the bundles as the specification says, sharing nothing with the verifier."""
    found: list[bytes] = []
    bundles = {file: file.name for file in (folder / "tile" / "entries").rglob("*") if file.is_file()}
    for file in sorted(bundles, key=lambda file: f"{file}".replace("x", "").replace(".p", "")):
        content, at = file.read_bytes(), 0
        while at < len(content):
            length = int.from_bytes(content[at : at + 2], "big")
            found.append(content[at + 2 : at + 2 + length])
            at += 2 + length
    return found


def _hashes_of(folder: Path, size: int) -> Callable[[int, int, int], Sequence[bytes]]:
    """Read hashes out of tiles, as a client of the log would."""

    def hashes(level: int, first: int, count: int) -> Sequence[bytes]:
        level //= 8
        found: list[bytes] = []
        for number in range(first, first + count):
            tile = number // 256
            width = min(256, (size >> 8 * level) - tile * 256)
            content = (folder / tile_path(f"{level}", tile, width)).read_bytes()
            found.append(content[number % 256 * 32 :][:32])
        return found

    return hashes


def test_foreign_trees_come_to_the_checkpoint_from_the_bundles(folder: Path) -> None:
    note, entries = read_note(f"{folder / 'checkpoint'}"), _entries_of(folder)
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    for entry in entries:
        tree.append_entry(entry)

    assert len(entries) == note.size == SIZE
    assert tree.get_root(SIZE) == note.root
    scitt: Any = import_module("scitt_cose.merkle")
    assert scitt.merkle_root([entry.hex() for entry in entries]) == note.root.hex()


def test_sigstore_accepts_proofs_that_are_made_of_tiles_alone(folder: Path) -> None:
    note, entries = read_note(f"{folder / 'checkpoint'}"), _entries_of(folder)
    for index in (0, 255, 256, 511, 600, SIZE - 1):
        proof = inclusion_proof(index, SIZE, _hashes_of(folder, SIZE))
        logged = {
            "logIndex": f"{index}",
            "logId": {"keyId": base64.b64encode(OURS.key.id).decode()},
            "kindVersion": {"kind": "entry", "version": "2"},
            "inclusionProof": {
                "logIndex": f"{index}",
                "treeSize": f"{note.size}",
                "rootHash": base64.b64encode(note.root).decode(),
                "hashes": [base64.b64encode(part).decode() for part in proof],
                "checkpoint": {"envelope": (folder / "checkpoint").read_text("utf-8")},
            },
            "canonicalizedBody": base64.b64encode(entries[index]).decode(),
        }
        verify_merkle_inclusion(TransparencyLogEntry(Logged.from_json(json.dumps(logged))))


def test_gos_tile_reader_reads_every_entry(folder: Path, tmp_path: Path) -> None:
    """The reader of Go's checksum database verifies each tile that it reads against the checkpoint."""
    go = demand("go", "golang-go", "golang-golang-x-mod-dev")
    program = REPO / "tests" / "oracles" / "tiles.go"
    environment = os.environ | {
        "GO111MODULE": "off",
        "GOPATH": f"{GO_MODULES}",
        "GOCACHE": f"{tmp_path / 'go'}",
    }
    built = tmp_path / "tiles-reader"
    subprocess.run([go, "build", "-o", built, program], check=True, env=environment)
    asked = [f"{built}", f"{folder}", f"{OURS.key}"]

    assert subprocess.run(asked, check=True, capture_output=True, text=True).stdout == f"{SIZE} entries\n"
    bundle = folder / "tile/entries/001"
    bundle.write_bytes(bundle.read_bytes().replace(b"nobody", b"nobodi", 1))
    refused = subprocess.run(asked, check=False, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "is not the record" in refused.stderr


# --- What is found


def test_each_changed_entry_is_named(folder: Path) -> None:
    bundle = folder / "tile/entries/001"
    first = _entries_of(folder)[256 : 256 + 20]
    place = 2 * 11 + sum(len(body) for body in first[:10]) + 3
    content = bytearray(bundle.read_bytes())
    content[place] ^= 1
    bundle.write_bytes(content)
    report = _verify(folder)

    assert (report.verdict, report.first_bad) == ("tampered", 266)
    assert report.headline is not None
    assert report.headline.where == "tile/0/001"


@pytest.mark.parametrize(
    ("path", "index"), [("tile/0/001", 256 + 3), ("tile/0/002.p/212", 512 + 3), ("tile/1/000.p/2", 256)]
)
def test_each_changed_tile_is_named(folder: Path, path: str, index: int) -> None:
    content = bytearray((folder / path).read_bytes())
    content[-1 if path.startswith("tile/1") else 32 * 3] ^= 1
    (folder / path).write_bytes(content)
    report = _verify(folder)

    assert (report.verdict, report.first_bad) == ("tampered", index)


@pytest.mark.parametrize(
    "path", ["tile/entries/001", "tile/0/001", "tile/1/000.p/2", "tile/entries/002.p/212"]
)
def test_each_missing_file_is_named(folder: Path, path: str) -> None:
    (folder / path).unlink()
    report = _verify(folder)

    assert report.verdict == "tampered"
    assert [fault.where for fault in report.faults] == [path]
    assert "is missing" in report.faults[0].what


@pytest.mark.parametrize("cut", [-1, 1])
def test_a_bundle_of_another_length_is_named(folder: Path, cut: int) -> None:
    bundle = folder / "tile/entries/000"
    content = bundle.read_bytes()
    bundle.write_bytes(content[:-1] if cut < 0 else content + b"\0")
    report = _verify(folder)

    assert (report.verdict, report.first_bad) == ("tampered", 255)
    assert len(report.faults) == 1


@pytest.mark.parametrize(("path", "index"), [("tile/entries/002.p/212", SIZE - 1), ("tile/0/002.p/212", 512)])
def test_a_last_file_with_more_in_it_is_named(folder: Path, path: str, index: int) -> None:
    (folder / path).write_bytes((folder / path).read_bytes() + b"\0\1x")
    report = _verify(folder)

    assert (report.verdict, report.first_bad) == ("tampered", index)


def test_a_mirror_that_went_on_in_the_meantime_is_verified(database: Path, tmp_path: Path) -> None:
    """Its checkpoint was copied first, and what was partial then is full by now."""
    folder = tmp_path / "tiles"
    _publish_only(database, 300)
    _export(database, folder)
    early = (folder / "checkpoint").read_bytes()
    _publish_only(database, SIZE)
    _export(database, folder)
    (folder / "checkpoint").write_bytes(early)

    assert not (folder / "tile/entries/001.p").exists()
    assert _verify(folder).verdict == "verified"


def test_a_log_that_was_made_anew_is_found_by_a_checkpoint_from_before(
    database: Path, told: Path, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(told)) as connection:
        kept = note_of(connection, 300, OURS)
    forged = tmp_path / "forged.db"
    story = a_story(ROUNDS)
    story.bodies[7]["status"] = "failed"
    write(story, forged, [(SIZE, OURS)])
    _export(forged, tmp_path / "tiles")
    report = _verify(tmp_path / "tiles", kept=kept)

    assert report.verdict == "tampered"
    assert report.headline is not None
    assert (report.headline.index, report.headline.last) == (0, 299)


def test_a_cut_end_is_found_by_a_newer_checkpoint(told: Path, database: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(told)) as connection:
        kept = note_of(connection, SIZE, OURS)
    _publish_only(database, 300)
    _export(database, tmp_path / "tiles")
    report = _verify(tmp_path / "tiles", kept=kept)

    assert (report.verdict, report.first_bad) == ("tampered", 300)


def test_another_key_is_refused_and_no_key_is_a_doubt(folder: Path) -> None:
    outside = [("kept", read_note(f"{folder / 'checkpoint'}"))]

    assert verify_tiles(folder, keys=[_key(THEIRS)], checkpoints=outside).verdict == "tampered"
    assert verify_tiles(folder, checkpoints=outside).verdict == "cannot tell"
    assert verify_tiles(folder, keys=[_key(OURS)]).verdict == "cannot tell", "its end may be missing"


def test_an_impossible_story_is_named(tmp_path: Path) -> None:
    story = a_story(2)
    story.bodies[9]["wseq"] += 1
    write(story, tmp_path / "odd.db", [(len(story.bodies), OURS)])
    _export(tmp_path / "odd.db", tmp_path / "tiles")
    report = _verify(tmp_path / "tiles")

    assert (report.verdict, report.first_bad) == ("tampered", 9)
    kept = [("kept", read_note(f"{tmp_path / 'tiles' / 'checkpoint'}"))]
    hashes = verify_tiles(tmp_path / "tiles", keys=[_key(OURS)], checkpoints=kept, hashes_only=True)
    assert hashes.verdict == "verified"


@pytest.mark.parametrize("given", [OURS, NEXT])
def test_a_change_of_the_key_is_followed(tmp_path: Path, given: Signer) -> None:
    database = tmp_path / "rotated.db"
    story = a_story(30, (20, OURS, NEXT))
    size = len(story.bodies)
    write(story, database, [(100, OURS), (size, NEXT)])
    _export(database, tmp_path / "tiles")
    with closing(sqlite3.connect(database)) as connection:
        old = note_of(connection, 100, OURS)
    newest = read_note(f"{tmp_path / 'tiles' / 'checkpoint'}")
    kept = [("old", Note.parse(old)), ("new", newest)]

    assert verify_tiles(tmp_path / "tiles", keys=[_key(given)], checkpoints=kept).verdict == "verified"
    forged = newest.text + "\n" + OURS.note(size, newest.root).rpartition("\n\n")[2]
    (tmp_path / "tiles" / "checkpoint").write_text(forged, "utf-8")
    report = verify_tiles(tmp_path / "tiles", keys=[_key(given)], checkpoints=kept)
    assert report.verdict == "tampered", "the old key signs nothing any more"


# --- Going on


def test_an_export_adds_what_is_new_and_leaves_the_rest_alone(database: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiles"
    _publish_only(database, 300)
    first = _export(database, folder)
    stamp = (folder / "tile/entries/000").stat().st_ino
    _publish_only(database, SIZE)
    second = _export(database, folder)
    third = _export(database, folder)

    assert [(one.before, one.published.size) for one in (first, second, third)] == [
        (0, 300),
        (300, SIZE),
        (SIZE, SIZE),
    ]
    assert (folder / "tile/entries/000").stat().st_ino == stamp, "a full bundle is written once"
    assert not (folder / "tile/entries/001.p").exists(), "it is full now"
    assert _verify(folder).verdict == "verified"


@pytest.mark.parametrize("sizes", [(1, 255, 256, 257), (100, 300, 512, 513, 700)])
def test_steps_lead_to_the_same_files_as_one_export(
    database: Path, tmp_path: Path, sizes: tuple[int, ...]
) -> None:
    for size in (*sizes, SIZE):
        _publish_only(database, size)
        _export(database, tmp_path / "steps")
    _export(database, tmp_path / "once")
    once, steps = _files(tmp_path / "once"), _files(tmp_path / "steps")

    assert {path: steps[path] for path in once} == once
    assert all(".p/" in path for path in steps.keys() - once.keys()), "smaller forms of what is not full yet"


def test_an_export_goes_on_from_the_stage_that_was_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With checkpoints on the way each stage is whole by itself."""
    database, folder = tmp_path / "long.db", tmp_path / "tiles"
    write(a_story(ROUNDS), database, [(size, OURS) for size in (100, 200, 300, 400, 500, 600, SIZE)])
    monkeypatch.setattr("toolgate.backends.export_tiles.STAGE", 150)
    seen: list[int] = []

    def stop(done: int, total: int) -> None:
        if (folder / "checkpoint").exists():
            seen.append(read_note(f"{folder / 'checkpoint'}").size)
        if done > 450:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_tiles(reader(database), folder, stop)
    with closing(sqlite3.connect(database)) as connection:
        kept = note_of(connection, 400, OURS)

    assert seen == [200, 400]
    assert _verify(folder, kept=kept).verdict == "verified"
    assert _export(database, folder).before == 400
    assert _verify(folder).verdict == "verified"


def test_a_killed_export_leaves_what_verifies_and_goes_on(tmp_path: Path) -> None:
    """SIGKILL in the middle of the second half: the first half is whole, and the rest is written then."""
    database, folder = tmp_path / "long.db", tmp_path / "tiles"
    write(a_story(700), database, [(4_000, OURS)])
    _export(database, folder)
    kept = read_note(f"{folder / 'checkpoint'}")
    _publish_only(database, 8_404)
    program = (
        "import sys, time; from pathlib import Path; from toolgate.backends import export_tiles as tiles\n"
        "from toolgate.backends.sqlite_files import reader\n"
        "put = tiles.write_quickly\n"
        "def slow(file, content): put(file, content); print(file, flush=True); time.sleep(0.01)\n"
        "tiles.write_quickly = slow\n"
        "tiles.export_tiles(reader(Path(sys.argv[1])), Path(sys.argv[2]), lambda done, total: None)\n"
    )
    words = [sys.executable, "-c", program, f"{database}", f"{folder}"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as export:
        assert export.stdout is not None
        written = [export.stdout.readline() for _ in range(12)]
        export.send_signal(signal.SIGKILL)
    assert all(written)

    assert read_note(f"{folder / 'checkpoint'}") == kept
    assert verify_tiles(folder, keys=[_key(OURS)], checkpoints=[("kept", kept)]).verdict == "verified"
    assert _export(database, folder).before == 4_000
    assert _verify(folder).entries == 8_404
    assert _verify(folder).verdict == "verified"
    assert not list(folder.rglob("*.part"))


def test_two_exports_do_not_write_into_one_folder(database: Path, tmp_path: Path) -> None:
    with (
        export_files.alone_in(tmp_path / "tiles"),
        pytest.raises(LedgerUnavailable, match="another export writes into"),
    ):
        _export(database, tmp_path / "tiles")


# --- What is refused


def test_a_ledger_that_lost_entries_does_not_touch_the_folder(database: Path, folder: Path) -> None:
    before = _files(folder)
    _publish_only(database, 300)

    with pytest.raises(LedgerUnavailable, match=f"holds {SIZE} entries, the ledger has published 300"):
        _export(database, folder)
    assert _files(folder) == before


def test_a_ledger_that_was_changed_does_not_touch_the_folder(folder: Path, tmp_path: Path) -> None:
    before = _files(folder)
    story = a_story(ROUNDS + 1)
    story.bodies[7]["status"] = "failed"
    write(story, tmp_path / "forged.db", [(len(story.bodies), OURS)])

    with pytest.raises(LedgerUnavailable, match="are not those that"):
        _export(tmp_path / "forged.db", folder)
    assert _files(folder) == before


def test_the_folder_of_another_log_is_left_alone(folder: Path, tmp_path: Path) -> None:
    other = Signer(1, "ledger.example/other")
    write(a_story(1), tmp_path / "other.db", [(16, other)])

    with pytest.raises(LedgerUnavailable, match=f"holds the log {ORIGIN!r}"):
        _export(tmp_path / "other.db", folder)


def test_a_folder_with_other_files_is_left_alone(database: Path, tmp_path: Path) -> None:
    (tmp_path / "tiles").mkdir()
    (tmp_path / "tiles" / "thesis.txt").write_text("x", "utf-8")

    with pytest.raises(LedgerUnavailable, match="holds other files"):
        _export(database, tmp_path / "tiles")
    (tmp_path / "tiles" / "checkpoint").write_text("x", "utf-8")
    with pytest.raises(LedgerUnavailable, match="is no checkpoint"):
        _export(database, tmp_path / "tiles")


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE ledger_entry SET body = body || ' ' WHERE idx = 400", "entry 400 is not what was recorded"),
        ("UPDATE ledger_entry SET leaf = zeroblob(32) WHERE idx = 400", "entry 400 is not what was recorded"),
        ("DELETE FROM ledger_entry WHERE idx = 400", "does not hold what it published|entry 400"),
        ("DELETE FROM ledger_checkpoint", "nothing of the ledger was published yet"),
        ("UPDATE ledger_checkpoint SET note = 'x'", "does not hold what it published"),
    ],
)
def test_nothing_false_is_exported(database: Path, tmp_path: Path, statement: str, said: str) -> None:
    with _changing(database) as connection:
        connection.execute(statement)

    with pytest.raises(LedgerUnavailable, match=said):
        _export(database, tmp_path / "tiles")
    assert not (tmp_path / "tiles" / "checkpoint").exists()


# --- The command


def test_the_command_exports_and_records_who_did(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    run("call", "notes.add", "--args", '{"text": "x"}')
    first = document("ledger", "export", "--tiles", f"{tmp_path / 'tiles'}")
    second = document("ledger", "export", "--tiles", f"{tmp_path / 'tiles'}")
    read = [json.loads(entry) for entry in _entries_of(tmp_path / "tiles") if b'"audit_read"' in entry]

    assert first["before"] == 0
    assert second["before"] == first["size"]
    assert {entry["query"] for entry in read} == {"export tiles"}
    words = [sys.executable, "-I", f"{REPO / 'tools' / 'verify.py'}", "tiles", f"{tmp_path / 'tiles'}"]
    words += ["--key", "keys/ledger.vkey", "--checkpoint", "data/checkpoint"]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("VERIFIED: ")


def test_one_form_is_wanted(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)

    assert run("ledger", "export").exit_code == 2
    assert run("ledger", "export", "--tiles", "a", "--ocsf", "b").exit_code == 2
    assert run("ledger", "export", "--tiles", "a", "--names").exit_code == 2
    assert "nothing was called yet" in faults("ledger", "export", "--tiles", f"{tmp_path / 'tiles'}")
    assert not (tmp_path / "tiles").exists()


def test_hashes_of_entries_are_those_of_the_specification(folder: Path) -> None:
    """RFC 6962, section 2.1: SHA-256 over 0x00 and the entry."""
    tile = (folder / "tile/0/000").read_bytes()
    for index, entry in enumerate(_entries_of(folder)[:256]):
        assert tile[32 * index :][:32] == sha256(b"\0" + entry).digest()
