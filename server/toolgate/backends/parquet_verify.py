"""Verifies an export: its entries are those under its checkpoints, and its columns what they say."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from toolgate.backends.duckdb_engine import duckdb_engine
from toolgate.backends.export_parquet import Progress
from toolgate.backends.parquet_files import Part, quoted, read_manifest, tables
from toolgate.backends.parquet_rows import ENTRIES, PAYLOADS, columns_of, payload_columns
from toolgate.backends.sql_connection import cause
from toolgate.core.commitment import commitment
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.merkle import EMPTY_ROOT, Frontier, leaf_hash
from toolgate.verifier import (
    Grammar,
    Note,
    Report,
    Rotation,
    Trust,
    Unreadable,
    VerifierKey,
    Wrong,
    parse_body,
)

_ROWS: Final = 2_048
_NAMES: Final = tuple(ENTRIES)
_BODY: Final = _NAMES.index("body")


def verify_parquet(
    directory: Path,
    *,
    keys: list[VerifierKey],
    checkpoints: list[tuple[str, Note]],
    progress: Progress | None = None,
) -> Report:
    """Verify an export with keys, and with checkpoints that were kept elsewhere, a name for each.

    Raises:
        Unreadable: it is no export, or cannot be read to its end.
    """
    try:
        manifest = read_manifest(directory)
        with duckdb_engine(*tables(manifest, directory.absolute())).connect() as connection:
            claimed = {name: _Claimed(name, note, outside=True) for name, note in checkpoints}
            own = _Claimed("the export's checkpoint", Note.parse(manifest.checkpoint))
            audit = _Audit(connection, directory, [*claimed.values(), own])
            for part in manifest.parts:
                audit.part(part, values=manifest.values)
                if progress is not None:
                    progress(part.last + 1, manifest.size)
            return audit.report_of(manifest.size, manifest.origin, keys)
    except LedgerUnavailable as error:
        raise Unreadable(str(error)) from error
    except SQLAlchemyError as error:
        raise Unreadable(f"{directory} cannot be read to its end ({cause(error)}); copy it anew") from error


@dataclass(frozen=True)
class _Claimed:
    """A checkpoint, of the export or from outside."""

    name: str
    note: Note
    outside: bool = False


@dataclass
class _Audit:
    """What is known after so many entries."""

    connection: Connection
    directory: Path
    claimed: list[_Claimed]
    report: Report = field(default_factory=Report)
    tree: Frontier = field(default_factory=Frontier)
    grammar: Grammar = field(default_factory=Grammar)
    roots: dict[int, bytes] = field(default_factory=lambda: {0: EMPTY_ROOT})
    """Of the tree, at the sizes that checkpoints have."""
    rotations: list[Rotation] = field(default_factory=list[Rotation])
    matched: int = 0
    """So many entries are under a good checkpoint; the report's `covered` counts only those from outside."""

    def part(self, part: Part, *, values: bool) -> None:
        """Look at the files of one part."""
        said = self._metadata(part.entries)
        self.claimed.append(_Claimed(part.entries, Note.parse(said.get("checkpoint", ""))))
        sizes = {one.note.size for one in self.claimed}
        promised: dict[int, dict[str, object]] = {}
        begin = self.tree.size
        for row in self._rows(part.entries, _NAMES):
            body = str(row[_BODY]).encode()
            said_of = self._entry(row, body)
            if said_of.get("kind") == "key_rotate":
                self._rotation(self.tree.size, body)
            promises = {name: each["hmac"] for name, each in said_of.items() if _is_promise(each)}
            if promises:
                promised[self.tree.size] = promises
            self.tree.append(leaf_hash(body))
            if self.tree.size in sizes:
                self.roots[self.tree.size] = self.tree.root()
        if (begin, self.tree.size - 1) != (part.first, part.last) or not _is_of(said, part):
            self.report.fault(begin, part.entries, "it does not hold the entries that it says")
        self._ends(part)
        if values:
            self._values(part, promised)

    def report_of(self, size: int, origin: str, keys: list[VerifierKey]) -> Report:
        """Hold the tree against the checkpoints, and give what was found."""
        report = self.report
        report.entries = self.tree.size
        if self.tree.size != size:
            report.fault(self.tree.size, "export.json", f"it says {size} entries")
        self._late_ends()
        self._checkpoints(origin, Trust(keys, self.rotations))
        if not keys:
            report.doubts.append("no key was given: anybody could have made this; give the log's with --key")
        if not report.covered:
            report.doubts.append(
                "no good checkpoint from outside the export was given: its end may be missing; "
                "give one with --checkpoint"
            )
        if self.matched < self.tree.size:
            report.doubts.append(f"no good checkpoint covers the entries from {self.matched} on")
        if report.covered:
            covered = f"entries 0 to {report.covered - 1}"
            report.checked.append(f"{covered} are those under a checkpoint from outside")
        report.checked.append("every entry's hash, and every column against its entry")
        report.checked.append("the grammar: writers, intents, outcomes, leases")
        report.not_checked.append("names and claims: the ledger commits to none of them")
        return report

    def _checkpoints(self, origin: str, trust: Trust) -> None:
        earlier = [one for one in self.claimed if not self._checkpoint(one, origin, trust)]
        if earlier and self.matched < trust.reaches_back:
            self.report.doubts.append(
                f"{earlier[0].name} is signed by an earlier key than those that were given; "
                "give that with --key"
            )
            return
        for one in earlier:
            self._accept(one)

    def _checkpoint(self, claimed: _Claimed, origin: str, trust: Trust) -> bool:
        """Compare a checkpoint with the tree and the keys; false when an earlier key has to vouch for it."""
        name, note, report = claimed.name, claimed.note, self.report
        in_force = not trust.given or not note.signers(trust.known).isdisjoint(trust.in_force(note.size))
        if note.origin != origin:
            report.fault(0, name, f"it is of another log, {note.origin!a}", certainty="checkpoint")
        elif not in_force and not claimed.outside:
            what = "it is not signed by the key that was in force"
            report.fault(note.size, name, what, certainty="checkpoint")
        elif not in_force:
            report.doubts.append(f"{name} is not signed by the log's key; give its key with --key")
        elif note.size > self.tree.size:
            report.doubts.append(f"{name} is of {note.size} entries; the export has {self.tree.size}")
        elif self.roots.get(note.size) != note.root:
            what = f"the first {note.size} entries are not those of the checkpoint"
            report.fault(0, name, what, last=max(0, note.size - 1), certainty="range")
        elif trust.is_earlier(note.size):
            return False
        else:
            self._accept(claimed)
        return True

    def _accept(self, claimed: _Claimed) -> None:
        self.matched = max(self.matched, claimed.note.size)
        if claimed.outside:
            self.report.covered = max(self.report.covered, claimed.note.size)

    def _rotation(self, index: int, body: bytes) -> None:
        """Follow a change of the log's key; the chain ends at the first that does not hold."""
        try:
            rotation = Rotation.parse(index, body)
            if self.rotations and rotation.old != self.rotations[-1].new:
                raise Unreadable("its old key is not the one in force")
        except Unreadable as error:
            self.report.fault(index, "body", f"this rotation of the key does not hold: {error}")
        else:
            self.rotations.append(rotation)

    def _entry(self, row: tuple[Any, ...], body: bytes) -> dict[str, Any]:
        """Check an entry against its columns and the entries before it; gives what it says."""
        index, said = self.tree.size, dict[str, Any]()
        expected: dict[str, Any] = {"idx": index, "leaf": leaf_hash(body), "body": body.decode()}
        try:
            said = parse_body(body)
            expected |= columns_of(said)
        except (Unreadable, ValueError) as error:
            self.report.fault(index, "body", str(error))
        try:
            self.grammar.read(said)
        except Wrong as wrong:
            self.report.fault(index, "body", str(wrong))
        for name, value in zip(_NAMES, row, strict=True):
            if value != expected.get(name):
                self.report.fault(index, name, "the column is not what the entry says")
        return said

    def _values(self, part: Part, promised: dict[int, dict[str, object]]) -> None:
        for idx, name, salt, value, *further in self._rows(part.payloads, tuple(PAYLOADS)):
            if value is None:
                continue
            promise, spelled = promised.get(idx, {}).get(name), value.encode()
            if promise is None or salt is None or commitment(salt, name, spelled) != promise:
                self.report.fault(idx or part.first, f"{name}", "the value is not what the entry commits to")
            elif further != _beside(name, spelled):
                self.report.fault(idx, name, "a column beside the value is not what the value says")

    def _ends(self, part: Part) -> None:
        """Look for intents whose end, as they tell it, is not the one that the same file has."""
        file = f"read_parquet({quoted(str(self.directory / part.entries))})"
        ended = "kind = 'outcome' OR kind = 'unknown'"
        self._wrong_ends(f"""
            SELECT e.idx FROM {file} e LEFT JOIN (SELECT * FROM {file} WHERE {ended}) x
                ON x.refers = e.idx AND e.kind = 'intent'
            WHERE (e.end_entry, e.end_at, e.end_status) IS DISTINCT FROM (x.idx, x."at", x.status) LIMIT 1
        """)  # noqa: S608 - a quoted name

    def _late_ends(self) -> None:
        """Look for ends that came later, and are told otherwise in their table."""
        found = """
            SELECT refers AS intent, idx AS entry, "at", status FROM ledger_entry x
            WHERE (kind = 'outcome' OR kind = 'unknown')
                AND NOT EXISTS (SELECT 1 FROM ledger_entry e WHERE e.end_entry = x.idx)
        """
        told = 'SELECT intent, entry, "at", status FROM late_end'
        self._wrong_ends(f"SELECT entry FROM (({found}) EXCEPT ({told})) LIMIT 1")  # noqa: S608
        self._wrong_ends(f"SELECT entry FROM (({told}) EXCEPT ({found})) LIMIT 1")  # noqa: S608

    def _wrong_ends(self, sql: str) -> None:
        index: int | None = self.connection.exec_driver_sql(sql).scalar()
        if index is not None:
            self.report.fault(index, "end_entry", "the end of the call is not what the entries say")

    def _metadata(self, file: str) -> dict[str, str]:
        path = quoted(str(self.directory / file))
        rows = self.connection.exec_driver_sql(f"SELECT key, value FROM parquet_kv_metadata({path})")  # noqa: S608
        return {bytes(key).decode(): bytes(value).decode() for key, value in rows}

    def _rows(self, file: str, columns: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
        names = ", ".join(f'"{name}"' for name in columns)
        path = quoted(str(self.directory / file))
        found = self.connection.exec_driver_sql(
            f"SELECT {names} FROM read_parquet({path}, hive_partitioning = false)",  # noqa: S608 - quoted
            execution_options={"yield_per": _ROWS},
        )
        for row in found:
            yield tuple(row)


def _beside(name: str, spelled: bytes) -> list[Any] | None:
    """Give the columns beside a value; none where it is no JSON."""
    try:
        columns = payload_columns(name, spelled)
    except (ValueError, RecursionError):
        return None
    return [columns.get("said"), columns.get("atoms")]


def _is_promise(said: object) -> bool:
    return isinstance(said, dict) and "hmac" in said


def _is_of(said: dict[str, str], part: Part) -> bool:
    return (said.get("first"), said.get("last")) == (str(part.first), str(part.last))
