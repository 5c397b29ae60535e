"""The tree, computed anew out of the entries' bodies and held against everything that the database keeps."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from tests.torture.books import Reading
from toolgate.backends.log_key import LogKey, is_signed
from toolgate.backends.sqlite_files import prepare
from toolgate.core.merkle import Frontier, leaf_hash
from toolgate.core.note import Checkpoint, Note

VERIFIER = Path(__file__).resolve().parents[2] / "tools" / "verify.py"
_COPIED = {
    "ledger_entry": "idx, leaf, kind, call_id, at, tenant, who, tool, status, run, refers, body",
    "ledger_node": "level, number, hash",
    "ledger_tip": "id, size, frontier, erasures",
    "ledger_checkpoint": "size, at, note",
    "payload": "idx, field, salt, value",
}


def faults_in_ledger(folder: Path, book: Reading) -> Iterator[str]:
    """Say everything that is wrong with the ledger in `book`, which nobody writes to.

    Args:
        folder: holds the log's key and, in itself or in a folder for each gate, the published checkpoints.
    """
    checkpoints = sorted([*folder.glob("checkpoint"), *folder.glob("gate-*/checkpoint")])
    yield from _faults_in_tree(book, folder, [file.read_text("utf-8") for file in checkpoints])
    file = folder / "ledger.db"
    if not file.exists():
        _copy(book, file)
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        ((said,),) = connection.execute("PRAGMA integrity_check").fetchall()
        if said != "ok":
            yield f"SQLite says: {said}"
    for checkpoint in checkpoints:
        yield from _faults_by_the_verifier(folder, checkpoint)


def _faults_in_tree(book: Reading, folder: Path, published: list[str]) -> Iterator[str]:
    key = LogKey.read(folder / "ledger.key")
    notes = [*(row[0] for row in book.ask("SELECT note FROM ledger_checkpoint")), *published]
    signed = {text: Note.parse(text) for text in notes}
    wanted = {text: Checkpoint.parse(note.text) for text, note in signed.items()}
    yield from (
        f"a checkpoint is not signed by the key:\n{text}"
        for text, note in signed.items()
        if not is_signed(note, key.verifier)
    )
    tree, nodes = Frontier(), set[tuple[int, int, bytes]]()
    roots: dict[int, bytes] = {}
    sizes = {checkpoint.size for checkpoint in wanted.values()}
    for idx, leaf, body in book.ask("SELECT idx, leaf, body FROM ledger_entry ORDER BY idx"):
        if idx != tree.size:
            yield f"entry {tree.size} is missing"
            return
        if leaf != leaf_hash(body):
            yield f"entry {idx} has a leaf that is not its body's"
        nodes.update(tree.append(leaf))
        if tree.size in sizes:
            roots[tree.size] = tree.root()
    for checkpoint in wanted.values():
        if roots.get(checkpoint.size) != checkpoint.root:
            yield f"the checkpoint of {checkpoint.size} entries has another root"
    if set(book.ask("SELECT level, number, hash FROM ledger_node")) != nodes:
        yield "the nodes are not what the leaves say"
    ((size, packed),) = book.ask("SELECT size, frontier FROM ledger_tip")
    if (size, packed) != (tree.size, tree.pack()):
        yield "the tip is not what the leaves say"


def _copy(book: Reading, file: Path) -> None:
    """Copy a server's ledger into a file, row by row, for the program that an auditor would use."""
    prepare(file)
    with closing(sqlite3.connect(file)) as connection:
        for table, columns in _COPIED.items():
            places = ", ".join("?" * (columns.count(",") + 1))
            insert = f"INSERT OR REPLACE INTO {table} ({columns}) VALUES ({places})"  # noqa: S608 - of names
            connection.executemany(insert, book.ask(f"SELECT {columns} FROM {table}"))  # noqa: S608
        connection.commit()


def _faults_by_the_verifier(folder: Path, checkpoint: Path) -> Iterator[str]:
    """Ask the program that an auditor would use."""
    asked = [
        str(VERIFIER),
        "ledger",
        str(folder / "ledger.db"),
        "--key",
        str(folder / "ledger.vkey"),
        "--checkpoint",
        str(checkpoint),
    ]
    done = subprocess.run([sys.executable, *asked], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        yield f"verify.py exits with {done.returncode}:\n{done.stdout}{done.stderr}"
