"""Writes entries as events for a SIEM: a line of JSON each, every index once, from a cursor on."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

import orjson
from sqlalchemy import Connection, Engine, select

from toolgate.backends.export_files import replaced
from toolgate.backends.ledger_reading import OTHERWISE, Published, TreeHashes, leaves, newest, reading
from toolgate.backends.ocsf_events import Effects, Events, Log
from toolgate.backends.sql_tables import ENTRY, PSEUDONYM
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.merkle import STRIDE, Frontier, node_hash, root_at
from toolgate.core.note import BadNote

Progress: TypeAlias = Callable[[int, int], None]
"""Hears how many entries are done, and how many there are."""

_MOST_REMEMBERED: Final = 100_000


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a SIEM wants to hear."""

    first: int = 0
    """The index to begin with."""
    names: bool = False
    """Say whom pseudonyms stand for."""
    whole: bool = False
    """Let each event hold its entry."""


@dataclass(frozen=True)
class Sent:
    """Which entries were written."""

    first: int
    published: Published
    """The checkpoint that covers them; its size is the first index that was not written."""

    @property
    def next(self) -> int:
        return max(self.first, self.published.size)


def export_ocsf(
    engine: Engine, file: BinaryIO, wanted: Wanted, progress: Progress, *, after: Published | None = None
) -> Sent:
    """Write every entry from `wanted.first` on that the newest checkpoint covers.

    Args:
        engine: opens the ledger's database.
        file: hears the lines.
        wanted: what to write.
        progress: hears how far it is.
        after: the checkpoint of the last time: the ledger must still begin with what it covers.

    Raises:
        LedgerUnavailable: it does not, there are no such entries, or they are not those that were published:
            the root over all of them is compared with the checkpoint's before this returns.
    """
    with reading(engine) as connection:
        published = newest(connection)
        _demand_extension(connection, after, published)
        if wanted.first > published.size:
            raise LedgerUnavailable(
                f"the ledger has published {published.size} entries, none from index {wanted.first} on"
            )
        events, tree = _events(connection, published, wanted), _tree(connection, wanted.first)
        for found in leaves(connection, wanted.first, published.size):
            file.writelines(map(events.line, found))
            for leaf in found:
                tree.append(leaf.hash)
            progress(found[-1].index + 1 - wanted.first, published.size - wanted.first)
        if tree.root() != published.checkpoint.root:
            raise LedgerUnavailable(f"{OTHERWISE}. Trust none of the events that were written now")
        file.flush()
    return Sent(wanted.first, published)


def read_cursor(file: Path) -> Published | None:
    """Give the checkpoint up to which entries were sent; None where there is no cursor yet.

    Raises:
        LedgerUnavailable: it is no cursor.
    """
    try:
        said = json.loads(file.read_text("utf-8"))
        published = Published.parse(said["checkpoint"])
        if said["next"] != published.size:
            raise ValueError("its checkpoint is of another size")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, BadNote) as error:
        raise LedgerUnavailable(
            f"{file} is no cursor of an export ({error}); restore it, or say --since-index"
        ) from error
    return published


def keep_cursor(file: Path, sent: Sent) -> None:
    """Remember durably what was sent."""
    said = {
        "log": sent.published.checkpoint.origin,
        "next": sent.next,
        "checkpoint": f"{sent.published.note}",
    }
    with replaced(file) as opened:
        opened.write(json.dumps(said, indent=2).encode() + b"\n")


def _demand_extension(connection: Connection, after: Published | None, now: Published) -> None:
    if after is None:
        return
    if after.checkpoint.origin != now.checkpoint.origin:
        raise LedgerUnavailable(f"the cursor is of the log {after.checkpoint.origin!r}; name another file")
    try:
        root = root_at(after.size, TreeHashes(connection)) if after.size <= now.size else None
    except ValueError:
        root = None
    if root != after.checkpoint.root:
        raise LedgerUnavailable(
            f"the ledger does not begin with the {after.size} entries that were exported before: it lost "
            "entries, or was changed. Keep the cursor; run: toolgate ledger verify"
        )


def _tree(connection: Connection, size: int) -> Frontier:
    """Give the tree of the first `size` entries, by the hashes that the ledger keeps."""
    hashes, roots, at = TreeHashes(connection), list[bytes](), 0
    try:
        for level in reversed(range(size.bit_length())):
            if size >> level & 1:
                kept = level - level % STRIDE
                nodes = list(hashes(kept, at >> kept, 1 << level - kept))
                while len(nodes) > 1:
                    nodes = [node_hash(*pair) for pair in zip(nodes[::2], nodes[1::2], strict=True)]
                roots += nodes
                at += 1 << level
        return Frontier(size, roots)
    except ValueError as error:
        raise LedgerUnavailable(OTHERWISE) from error


def _events(connection: Connection, published: Published, wanted: Wanted) -> Events:
    def effect_of(intent: int) -> str:
        body = connection.execute(select(ENTRY.c.body).where(ENTRY.c.idx == intent)).scalar()
        return "" if body is None else str(orjson.loads(body).get("effect", ""))

    @lru_cache(maxsize=_MOST_REMEMBERED)
    def clear(pseudonym: str) -> str | None:
        value = connection.execute(select(PSEUDONYM.c.value).where(PSEUDONYM.c.name == pseudonym)).scalar()
        return None if value is None else str(orjson.loads(value)[-1])

    log = Log(origin=published.checkpoint.origin, authority=published.authority)
    return Events(
        log=log,
        effects=Effects(effect_of),
        clear=clear if wanted.names else lambda _: None,
        whole=wanted.whole,
    )
