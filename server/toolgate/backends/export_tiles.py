"""Writes the ledger as a folder of static files that anyone can mirror and verify (c2sp.org/tlog-tiles).

The folder is whole after every stage: `checkpoint`, written last, covers what lies beside it. A stage
ends at a checkpoint that the ledger published, so that an export which is broken off goes on from there.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from sqlalchemy import Connection, Engine, select

from toolgate.backends.export_files import alone_in, replaced, synced, write_quickly
from toolgate.backends.ledger_reading import (
    AT_ONCE,
    Leaf,
    Published,
    TreeHashes,
    demand_root,
    leaves,
    newest,
    read_note,
    reading,
)
from toolgate.backends.sql_tables import CHECKPOINT
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.merkle import STRIDE, Frontier, node_hash, root_at
from toolgate.core.note import BadNote

Progress: TypeAlias = Callable[[int, int], None]
"""Hears how many entries are done, and how many there are."""

WIDTH: Final = 1 << STRIDE
"""Hashes of a full tile, and entries of a full bundle."""
LARGEST_ENTRY: Final = 0xFFFF
"""Bytes of an entry at most: its length in a bundle is a 16-bit number."""
STAGE: Final = 65_536
"""Entries of a stage at least, where there are checkpoints to end it with."""


@dataclass(frozen=True)
class Exported:
    """What an export did."""

    before: int
    """So many entries were in the folder."""
    published: Published


def export_tiles(engine: Engine, folder: Path, progress: Progress) -> Exported:
    """Bring `folder` to the ledger's newest checkpoint; what it holds already stays.

    Raises:
        LedgerUnavailable: the folder holds something else than the ledger's beginning, another export is at
            work in it, or the ledger does not hold what it published.
        OSError: the folder cannot be written.
    """
    with alone_in(folder), reading(engine) as connection:
        old, new = _present(folder), newest(connection)
        if old is not None:
            _demand_beginning(connection, folder, old, new)
        size = before = old.size if old else 0
        for stage in _stages(connection, before, new):
            _Stage(folder, size, stage, connection).write(lambda done: progress(done, new.size))
            size = stage.size
        return Exported(before, new)


def tile_path(kind: str, number: int, width: int = WIDTH) -> str:
    """Name a tile: `tile/KIND/x001/x234/067`, and for one of fewer hashes `.p/WIDTH` behind it."""
    name = f"{number % 1000:03}"
    while number := number // 1000:
        name = f"x{number % 1000:03}/{name}"
    return f"tile/{kind}/{name}" + (f".p/{width}" if width < WIDTH else "")


def _present(folder: Path) -> Published | None:
    try:
        return Published.parse((folder / "checkpoint").read_text("utf-8"))
    except FileNotFoundError:
        if any(not re.fullmatch(r"tile|\.checkpoint\.part", path.name) for path in folder.iterdir()):
            raise LedgerUnavailable(f"{folder} holds other files; name a new folder, or an export") from None
        return None
    except (BadNote, UnicodeDecodeError) as error:
        raise LedgerUnavailable(
            f"{folder / 'checkpoint'} is no checkpoint ({error}); name another folder"
        ) from error


def _demand_beginning(connection: Connection, folder: Path, old: Published, new: Published) -> None:
    if old.checkpoint.origin != new.checkpoint.origin:
        raise LedgerUnavailable(f"{folder} holds the log {old.checkpoint.origin!r}; name another folder")
    if old.size > new.size:
        raise LedgerUnavailable(
            f"{folder} holds {old.size} entries, the ledger has published {new.size}: it lost entries, or "
            "was restored from an old copy. Keep the folder; run: toolgate ledger recover"
        )
    try:
        root = root_at(old.size, TreeHashes(connection))
    except ValueError:
        root = None
    if root != old.checkpoint.root:
        raise LedgerUnavailable(
            f"the ledger's first {old.size} entries are not those that {folder} holds. Keep the folder; run: "
            f"toolgate ledger verify --checkpoint {folder / 'checkpoint'}"
        )


def _stages(connection: Connection, size: int, last: Published) -> Iterator[Published]:
    """Give the checkpoints to stop at: of those that were published some, and the newest."""
    sizes = connection.execute(
        select(CHECKPOINT.c.size)
        .where(CHECKPOINT.c.size > size, CHECKPOINT.c.size < last.size)
        .order_by(CHECKPOINT.c.size)
    )
    stops: list[int] = []
    for (at,) in sizes:
        if at - (stops[-1] if stops else size) >= STAGE and last.size - at >= STAGE:
            stops.append(at)
    for at in stops:
        stage = read_note(
            connection.execute(select(CHECKPOINT.c.note).where(CHECKPOINT.c.size == at)).scalar_one()
        )
        demand_root(connection, stage.checkpoint)
        yield stage
    if last.size > size:
        yield last


class _Stage:
    """Writes what lies between two checkpoints."""

    def __init__(self, folder: Path, old: int, published: Published, connection: Connection) -> None:
        self._folder, self._old, self._published = folder, old, published
        self._connection = connection
        self._written: list[Path] = []
        self._levels: list[list[bytes]] = [[]]
        """Of each level the hashes of its last tile, which is not full."""
        hashes, level = TreeHashes(connection), 1
        while count := old >> STRIDE * level:
            begin = count - count % WIDTH
            self._levels.append(list(hashes(STRIDE * level, begin, count - begin)))
            level += 1

    def write(self, progress: Callable[[int], None]) -> None:
        """Write bundles, tiles, and when these are on the disk the checkpoint."""
        size, number = self._published.size, self._old >> STRIDE
        for found in leaves(self._connection, number * WIDTH, size):
            for at in range(0, len(found), WIDTH):
                self._bundle(number, found[at : at + WIDTH])
                number += 1
            progress(found[-1].index + 1)
        self._last_tiles()
        synced(self._written, self._folder)
        with replaced(self._folder / "checkpoint") as file:
            file.write(f"{self._published.note}".encode())
        self._tidy()

    def _bundle(self, number: int, entries: list[Leaf]) -> None:
        if largest := next((leaf for leaf in entries if len(leaf.body) > LARGEST_ENTRY), None):
            raise LedgerUnavailable(
                f"entry {largest.index} has {len(largest.body)} bytes; tiles take at most {LARGEST_ENTRY}"
            )
        spelled = b"".join(len(leaf.body).to_bytes(2, "big") + leaf.body for leaf in entries)
        self._put(tile_path("entries", number, len(entries)), spelled)
        for leaf in entries:
            self._levels[0].append(leaf.hash)
        if len(entries) == WIDTH:
            self._full(0, number)

    def _full(self, level: int, number: int) -> None:
        """Write a full tile, and add its root to the tile above."""
        hashes = self._levels[level]
        self._put(tile_path(f"{level}", number), b"".join(hashes))
        if level + 1 == len(self._levels):
            self._levels.append([])
        self._levels[level + 1].append(_complete(hashes))
        self._levels[level] = []
        if len(self._levels[level + 1]) == WIDTH:
            self._full(level + 1, number >> STRIDE)

    def _last_tiles(self) -> None:
        for level, hashes in enumerate(self._levels):
            if hashes:
                number = self._published.size >> STRIDE * (level + 1)
                self._put(tile_path(f"{level}", number, len(hashes)), b"".join(hashes))
        roots = [root for hashes in reversed(self._levels) for root in _subtrees(hashes)]
        if Frontier(self._published.size, roots).root() != self._published.checkpoint.root:
            raise LedgerUnavailable(
                f"the entries do not lead to the checkpoint of {self._published.size}; "
                "run: toolgate ledger verify"
            )

    def _put(self, path: str, content: bytes) -> None:
        file = self._folder / path
        write_quickly(file, content)
        self._written.append(file)

    def _tidy(self) -> None:
        """Remove the smaller forms of tiles that are full now, as the specification allows."""
        for level in range(len(self._levels)):
            number = self._old >> STRIDE * (level + 1)
            for kind in (f"{level}", "entries") if level == 0 else (f"{level}",):
                full = self._folder / tile_path(kind, number)
                if full.exists():
                    shutil.rmtree(full.with_name(f"{full.name}.p"), ignore_errors=True)


def _complete(hashes: list[bytes]) -> bytes:
    """Give the root over so many hashes, a power of two."""
    while len(hashes) > 1:
        hashes = [node_hash(hashes[at], hashes[at + 1]) for at in range(0, len(hashes), 2)]
    return hashes[0]


def _subtrees(hashes: list[bytes]) -> Iterator[bytes]:
    """Give the roots of the complete subtrees over hashes of one level, largest first."""
    first = 0
    for bit in reversed(range(len(hashes).bit_length())):
        if len(hashes) >> bit & 1:
            yield _complete(hashes[first : first + (1 << bit)])
            first += 1 << bit


assert AT_ONCE % WIDTH == 0, "entries are read in whole bundles"  # noqa: S101 - holds of two constants
