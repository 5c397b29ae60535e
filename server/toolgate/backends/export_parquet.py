"""Writes a ledger as Parquet files, one or more a day, that any analytics program reads.

What is written is never changed: a run adds what came since the last one. Only the newest day's last file, to
which entries may still come, is written again under a new name. A run that is stopped leaves the export as it
was: the list of its files is replaced last, and at once.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson
from sqlalchemy import Connection, Engine, Executable, Row, RowMapping, desc, select
from sqlalchemy.exc import SQLAlchemyError

from toolgate.backends.duckdb_engine import duckdb_engine
from toolgate.backends.durable_files import sync
from toolgate.backends.parquet_files import (
    MANIFEST,
    SINGLE,
    VIEWS_FILE,
    Manifest,
    ParquetExport,
    Part,
    quoted,
    read_manifest,
    views_file,
)
from toolgate.backends.parquet_rows import ENTRIES, LATE, PAYLOADS, entry_row, name_row, payload_row
from toolgate.backends.replacing import replace_file
from toolgate.backends.sql_connection import cause
from toolgate.backends.sql_tables import (
    ACTIVATION,
    CHECKPOINT,
    CLAIM,
    ENTRY,
    ERASED_NAME,
    ERASURE,
    PAYLOAD,
    PSEUDONYM,
    RETENTION_RUN,
    VERSION,
)
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.note import BadNote, Checkpoint, Note

PART: Final = 122_880
"""Entries in one file at most: one row group of DuckDB's."""
_ROWS: Final = 4_096
_DAY: Final = 86_400_000_000
_LATE: Final = 3_600_000_000
"""Microseconds by which an entry may be older than its day: clocks are not that exact."""
_UNFINISHED: Final = ".unfinished"

Progress = Callable[[int, int], None]
"""Hears how many entries of how many were written."""


@dataclass(frozen=True)
class Exported:
    """What a run has done."""

    size: int
    """So many entries the export holds now."""
    added: int
    files: int


def export_parquet(
    engine: Engine,
    directory: Path,
    *,
    values: bool = True,
    part: int = PART,
    progress: Progress | None = None,
) -> Exported:
    """Bring the export in `directory` up to the ledger's newest checkpoint; without `values`, of no names.

    Raises:
        LedgerUnavailable: the ledger cannot be read, the directory holds the export of another one, or there
            is no DuckDB.
        OSError: the directory cannot be written.
    """
    writer = duckdb_engine("SET threads = 2")
    try:
        with engine.connect() as source, writer.connect() as target:
            note, checkpoint = _published(source)
            before = _before(source, directory, checkpoint, values=values)
            run = _Run(source, target, directory, note, checkpoint, values, part)
            return run.done(before, progress or (lambda _done, _total: None))
    except SQLAlchemyError as error:
        raise LedgerUnavailable(f"the ledger could not be exported ({cause(error)})") from error


@dataclass(frozen=True)
class _Run:
    """One run: everything that is written says the same checkpoint."""

    source: Connection
    target: Connection
    directory: Path
    note: str
    checkpoint: Checkpoint
    values: bool
    most: int

    def done(self, before: Manifest | None, progress: Progress) -> Exported:
        """Write what is missing, then the list of files, and then remove what is not in it."""
        held, size = 0 if before is None else before.size, self.checkpoint.size
        kept = [] if before is None else [one for one in before.parts if one.whole or held == size]
        parts, begin = list(kept), kept[-1].last + 1 if kept else 0
        self._begin_late_ends(begin, before)
        for written in self._parts(begin):
            parts.append(written)
            progress(written.last + 1 - begin, size - begin)
        self._singles()
        for folder in {(self.directory / file).parent for one in parts[len(kept) :] for file in one.files}:
            if folder.is_dir():
                sync(folder)
        manifest = Manifest(
            origin=self.checkpoint.origin,
            checkpoint=self.note,
            size=size,
            last_leaf=_leaf(self.source, size - 1),
            values=self.values,
            parts=tuple(parts),
        )
        replace_file(self.directory / VIEWS_FILE, views_file(manifest))
        replace_file(self.directory / MANIFEST, json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n")
        sync(self.directory)
        self._remove_what_is_not_in(manifest)
        return Exported(size, size - held, len(parts) - len(kept))

    def _parts(self, begin: int) -> Iterator[Part]:
        """Write the entries from `begin` on, many at a time, each day into a file of its own."""
        lines = _Lines(self.directory)
        # The day and the first entry of each part that `lines` has.
        begins, day, due = list[tuple[int, int]](), 0, begin
        try:
            for row in self._entries(begin):
                if lines.count == self.most:
                    yield from self._written(lines, _parts(begins, row.idx))
                    begins = []
                now = row.at // _DAY
                changed = now > day or row.at < day * _DAY - _LATE
                day = now if changed else day
                if changed or not begins:
                    begins.append((day, row.idx))
                lines.add(entry_row(row))
                due = row.idx + 1
            if begins:
                *whole, last = _parts(begins, due)
                yield from self._written(lines, [*whole, last.model_copy(update={"whole": False})])
        finally:
            lines.remove()

    def _entries(self, begin: int) -> Iterator[Row[Any]]:
        expected = begin
        for at in range(begin, self.checkpoint.size, _ROWS):
            until = min(at + _ROWS, self.checkpoint.size)
            wanted = select(ENTRY).where(ENTRY.c.idx >= at, ENTRY.c.idx < until).order_by(ENTRY.c.idx)
            for row in self.source.execute(wanted):
                if row.idx != expected:
                    raise LedgerUnavailable(f"the ledger lacks entry {expected}; run: toolgate ledger verify")
                expected += 1
                yield row

    def _written(self, lines: "_Lines", parts: Sequence[Part]) -> Iterator[Part]:
        """Write the entries of these parts, which `lines` has, and what is kept beside them."""
        self._read_in(lines, ENTRIES, "entry")
        if self.values:
            for at in range(parts[0].first, parts[-1].last + 1, _ROWS):
                until = min(at + _ROWS - 1, parts[-1].last)
                wanted = select(PAYLOAD).where(PAYLOAD.c.idx.between(at, until))
                for row in self.source.execute(wanted):
                    lines.add(payload_row(row))
            self._read_in(lines, PAYLOADS, "kept")
        ranges = ", ".join(f"({part.first}, {part.last})" for part in parts)
        self.target.exec_driver_sql(_LATE_ENDS.format(ranges=ranges))
        for part in parts:
            within, said = f"BETWEEN {part.first} AND {part.last}", part.model_dump(include={"first", "last"})
            self._write(part.entries, _WITH_ENDS.format(within=within), said)
            if self.values:
                rows = f"SELECT * FROM kept WHERE idx {within} ORDER BY idx, field"  # noqa: S608 - of numbers
                self._write(part.payloads, rows, said)
            yield part

    def _begin_late_ends(self, begin: int, before: Manifest | None) -> None:
        """Take over those that were found before."""
        columns = ", ".join(f'"{name}" {kind}' for name, kind in LATE.items())
        self.target.exec_driver_sql(f"CREATE TEMP TABLE late ({columns})")
        if before is not None:
            file = quoted(str(self.directory / SINGLE["late_end"][0]))
            earlier = f"SELECT * FROM read_parquet({file}) WHERE entry < {begin}"  # noqa: S608
            self.target.exec_driver_sql(f"INSERT INTO late {earlier}")

    def _singles(self) -> None:
        """Write the tables that are small, and change."""
        self._write(SINGLE["late_end"][0], "SELECT * FROM late ORDER BY intent", {})
        unknown = select(CLAIM.c.call_id, CLAIM.c.state).where(CLAIM.c.state == "unknown")
        covered = select(CHECKPOINT).where(CHECKPOINT.c.size <= self.checkpoint.size)
        self._single("ledger_checkpoint", covered, _as_it_is)
        self._single("claim", unknown, _as_it_is)
        self._single("policy_version", select(VERSION), _version_row)
        self._single("policy_activation", select(ACTIVATION), _as_it_is)
        self._single("erasure", select(ERASURE.c.entry, ERASURE.c.done), _as_it_is)
        self._single("erased_name", select(ERASED_NAME), _as_it_is)
        self._single("retention_run", select(RETENTION_RUN), _as_it_is)
        if self.values:
            self._single("pseudonym", select(PSEUDONYM), name_row)

    def _single(
        self, table: str, wanted: Executable, spelled: Callable[[RowMapping], dict[str, Any]]
    ) -> None:
        file, columns = SINGLE[table]
        lines = _Lines(self.directory)
        try:
            for row in self.source.execute(wanted, execution_options={"yield_per": _ROWS}).mappings():
                lines.add(spelled(row))
            self._read_in(lines, columns, "single")
            self._write(file, f"SELECT * FROM single ORDER BY {next(iter(columns))}", {})  # noqa: S608
        finally:
            lines.remove()

    def _read_in(self, lines: "_Lines", columns: Mapping[str, str], table: str) -> None:
        """Let DuckDB have the lines so far, in a table."""
        read = {name: "VARCHAR" if kind == "BLOB" else kind for name, kind in columns.items()}
        each = (
            f'unhex("{name}") AS "{name}"' if columns[name] == "BLOB" else f'"{name}"' for name in columns
        )
        shape = ", ".join(f"{quoted(name)}: {quoted(kind)}" for name, kind in read.items())
        source = f"read_json({quoted(str(lines.file))}, format = 'newline_delimited', columns = {{{shape}}})"
        lines.flush()
        made = f"CREATE OR REPLACE TEMP TABLE {table} AS"
        self.target.exec_driver_sql(f"{made} SELECT {', '.join(each)} FROM {source}")  # noqa: S608 - of constants
        lines.clear()

    def _write(self, file: str, rows: str, said: Mapping[str, object]) -> None:
        """Make a Parquet file, under a name of its own until it is on the disk."""
        said = {"origin": self.checkpoint.origin, "checkpoint": self.note, **said}
        path = self.directory / file
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + _UNFINISHED)
        metadata = ", ".join(f"{name}: {quoted(str(value))}" for name, value in said.items())
        options = f"FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {PART}, KV_METADATA {{{metadata}}}"
        self.target.exec_driver_sql(f"COPY ({rows}) TO {quoted(str(unfinished))} ({options})")
        sync(unfinished)
        unfinished.chmod(0o600)
        unfinished.replace(path)

    def _remove_what_is_not_in(self, manifest: Manifest) -> None:
        names = {name for part in manifest.parts for name in part.files}
        for file in [*self.directory.glob("entries/day=*/*"), *self.directory.glob("payloads/day=*/*")]:
            if file.relative_to(self.directory).as_posix() not in names:
                file.unlink()
        for file in self.directory.glob(f"*{_UNFINISHED}"):
            file.unlink()


class _Lines:
    """Rows on their way to DuckDB, a line of JSON each: its driver takes rows one by one far more slowly."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / f"rows.json{_UNFINISHED}"
        self.count = 0
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._written = os.fdopen(handle, "wb", buffering=1 << 20)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row."""
        self._written.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        self.count += 1

    def flush(self) -> None:
        """Let DuckDB see all."""
        self._written.flush()

    def clear(self) -> None:
        """Begin anew."""
        self._written.truncate(0)
        self._written.seek(0)
        self.count = 0

    def remove(self) -> None:
        """Leave nothing."""
        self._written.close()
        self.file.unlink(missing_ok=True)


_WITH_ENDS: Final = """
    SELECT e.*, x.idx AS end_entry, x."at" AS end_at, x.status AS end_status
    FROM (SELECT * FROM entry WHERE idx {within}) e
    LEFT JOIN (SELECT * FROM entry WHERE kind = 'outcome' OR kind = 'unknown') x
        ON x.refers = e.idx AND e.kind = 'intent' AND x.idx {within}
    ORDER BY e.idx
"""
_LATE_ENDS: Final = """
    INSERT INTO late SELECT e.refers, e.idx, e."at", e.status
    FROM entry e JOIN (VALUES {ranges}) p (first, last) ON e.idx BETWEEN p.first AND p.last
    WHERE (e.kind = 'outcome' OR e.kind = 'unknown') AND e.refers < p.first
"""


def _parts(begins: Sequence[tuple[int, int]], end: int) -> list[Part]:
    """Give the parts that begin so, the last of which ends before the entry `end`."""
    ends = [first for _, first in begins[1:]] + [end]
    return [
        Part(day=_date(day), first=first, last=following - 1, whole=True)
        for (day, first), following in zip(begins, ends, strict=True)
    ]


def _published(source: Connection) -> tuple[str, Checkpoint]:
    note = source.execute(select(CHECKPOINT.c.note).order_by(desc(CHECKPOINT.c.size)).limit(1)).scalar()
    if note is None:
        raise LedgerUnavailable("no checkpoint was published yet; there is nothing to export")
    try:
        return note, Checkpoint.parse(Note.parse(note).text)
    except BadNote as error:
        raise LedgerUnavailable(
            "the newest checkpoint cannot be read; run: toolgate ledger verify"
        ) from error


def _before(source: Connection, directory: Path, now: Checkpoint, *, values: bool) -> Manifest | None:
    """Give what the directory holds of this ledger already.

    Raises:
        LedgerUnavailable: it holds something else.
    """
    if not (directory / MANIFEST).exists():
        strange = [file.name for file in directory.iterdir()] if directory.is_dir() else []
        if any(name not in _OURS and not name.endswith(_UNFINISHED) for name in strange):
            raise LedgerUnavailable(f"{directory} is not empty, and no export; name an empty directory")
        return None
    before = read_manifest(directory)
    if before.origin != now.origin:
        raise LedgerUnavailable(f"{directory} holds an export of {before.origin}; name another directory")
    if before.values != values:
        has = "kept values" if before.values else "no values"
        raise LedgerUnavailable(f"{directory} holds an export with {has}; name another directory")
    if before.size > now.size or _leaf(source, before.size - 1) != before.last_leaf:
        raise LedgerUnavailable(
            f"{directory} holds {before.size} entries that are not those of this ledger: "
            "it was put back to an earlier state; run: toolgate ledger verify"
        )
    fault = ParquetExport(directory).fault()
    if fault is not None:
        raise LedgerUnavailable(fault)
    return before


def _leaf(source: Connection, index: int) -> str:
    leaf: bytes | None = source.execute(select(ENTRY.c.leaf).where(ENTRY.c.idx == index)).scalar()
    return "" if leaf is None else leaf.hex()


def _as_it_is(row: RowMapping) -> dict[str, Any]:
    return dict(row)


def _version_row(row: RowMapping) -> dict[str, Any]:
    return {**row, "files": row["files"].decode()}


def _date(day: int) -> str:
    return datetime.fromtimestamp(day * _DAY / 1_000_000, UTC).date().isoformat()


_OURS: Final = frozenset({"entries", "payloads", VIEWS_FILE, *(file for file, _ in SINGLE.values())})
