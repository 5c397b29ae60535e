"""The tree, computed anew out of the entries' bodies and held against everything that the database keeps."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from toolgate.backends.log_key import LogKey, is_signed
from toolgate.core.merkle import Frontier, leaf_hash
from toolgate.core.note import Checkpoint, Note

VERIFIER = Path(__file__).resolve().parents[2] / "tools" / "verify.py"


def faults_in_ledger(folder: Path) -> Iterator[str]:
    """Say everything that is wrong with the ledger in `folder`, which nobody writes to."""
    with closing(sqlite3.connect(f"file:{folder / 'ledger.db'}?mode=ro", uri=True)) as connection:
        ((said,),) = connection.execute("PRAGMA integrity_check").fetchall()
        if said != "ok":
            yield f"SQLite says: {said}"
        yield from _faults_in_tree(connection, folder)
    yield from _faults_by_the_verifier(folder)


def _faults_in_tree(connection: sqlite3.Connection, folder: Path) -> Iterator[str]:
    key = LogKey.read(folder / "ledger.key")
    notes = [row[0] for row in connection.execute("SELECT note FROM ledger_checkpoint")]
    notes.append((folder / "checkpoint").read_text("utf-8"))
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
    for idx, leaf, body in connection.execute("SELECT idx, leaf, body FROM ledger_entry ORDER BY idx"):
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
    if set(connection.execute("SELECT level, number, hash FROM ledger_node")) != nodes:
        yield "the nodes are not what the leaves say"
    ((size, packed),) = connection.execute("SELECT size, frontier FROM ledger_tip")
    if (size, packed) != (tree.size, tree.pack()):
        yield "the tip is not what the leaves say"


def _faults_by_the_verifier(folder: Path) -> Iterator[str]:
    """Ask the program that an auditor would use."""
    asked = [
        str(VERIFIER),
        "ledger",
        str(folder / "ledger.db"),
        "--key",
        str(folder / "ledger.vkey"),
        "--checkpoint",
        str(folder / "checkpoint"),
    ]
    done = subprocess.run([sys.executable, *asked], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        yield f"verify.py exits with {done.returncode}:\n{done.stdout}{done.stderr}"
