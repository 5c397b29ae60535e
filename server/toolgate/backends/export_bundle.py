"""Writes an answer with all that proves it, as one zip that needs nothing of ours to be verified.

The same answer from the same ledger is the same zip, byte for byte. `tools/verify.py`, which lies in it, says
what of an answer can be proven.
"""

import base64
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

from sqlalchemy import Connection, Engine, select, text

from toolgate import verifier
from toolgate.backends.audit_queries import Found
from toolgate.backends.ledger_proofs import PROOF
from toolgate.backends.ledger_reading import OTHERWISE, Published, TreeHashes, newest, reading, stored_bytes
from toolgate.backends.sql_tables import ENDED, ENTRY, PAYLOAD
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.merkle import consistency_proof, inclusion_proof, leaf_hash, root_at, root_from_inclusion
from toolgate.core.record import JsonObject

Progress: TypeAlias = Callable[[int, int], None]
"""Hears how many entries are done, and how many there are."""

_BEGIN: Final = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip can say: a bundle says no other."""
_FILE_MODE: Final = 0o100644 << 16
_UNIX: Final = 3
_AT_ONCE: Final = 256


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was asked, and what was found."""

    name: str
    question: str
    sql: str
    filters: JsonObject
    found: Found

    @property
    def entries(self) -> list[int]:
        """The entries that the rows name.

        Raises:
            LedgerUnavailable: they name none, because the question counts or lists something else.
        """
        places = [place for place, name in enumerate(self.found.columns) if name in verifier.NAMING]
        if not places:
            raise LedgerUnavailable(
                f"the rows of {self.name!r} name no entries, so nothing in them could be proven; ask for the "
                "calls themselves: toolgate ledger bundle calls"
            )
        return sorted({row[place] for row in self.found.rows for place in places if row[place] is not None})


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What a bundle holds beside the answer."""

    keys: Sequence[str]
    """The log's verifier keys."""
    old: Published | None = None
    """The checkpoint that the auditor holds from before."""
    values: bool = True
    """Open commitments where values are kept."""


def covered(engine: Engine, answer: Answer) -> bool:
    """Whether a checkpoint covers every entry behind the rows."""
    with reading(engine) as connection:
        return max(_behind(connection, answer), default=0) < newest(connection).size


def write_bundle(
    engine: Engine, file: BinaryIO, answer: Answer, beside: Beside, progress: Progress
) -> Published:
    """Write the bundle; gives the checkpoint that it leads to.

    Raises:
        LedgerUnavailable: the ledger does not hold what it published, does not extend the older checkpoint,
            or no checkpoint covers an entry.
    """
    with reading(engine) as connection, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bundle:
        now = newest(connection)
        for name, content in _fixed(connection, answer, beside, now):
            _add(bundle, name, content)
        rotations = select(ENTRY.c.idx).where(ENTRY.c.kind == "key_rotate", ENTRY.c.idx < now.size)
        entries = sorted({*_behind(connection, answer), *connection.execute(rotations).scalars()})
        for first in range(0, len(entries), _AT_ONCE):
            some = entries[first : first + _AT_ONCE]
            for name, content in _proven(connection, some, now):
                _add(bundle, name, content)
            for name, content in _opened(connection, some) if beside.values else ():
                _add(bundle, name, content)
            progress(first + len(some), len(entries))
    return now


def _behind(connection: Connection, answer: Answer) -> set[int]:
    """Give the entries that rows name, and the ends of calls whose status they show."""
    behind, columns = {*answer.entries}, answer.found.columns
    if "status" in columns and "entry" in columns:
        entry, status = columns.index("entry"), columns.index("status")
        ended = [row[entry] for row in answer.found.rows if row[status] != "open"]
        for first in range(0, len(ended), _AT_ONCE):
            some = ENTRY.c.refers.in_(ended[first : first + _AT_ONCE])
            behind |= {*connection.execute(select(ENTRY.c.idx).where(some, text(f"({ENDED})"))).scalars()}
    return behind


def _fixed(
    connection: Connection, answer: Answer, beside: Beside, now: Published
) -> Iterator[tuple[str, bytes]]:
    """Give what does not grow with the number of entries."""
    found = answer.found
    query = {
        "form": verifier.BUNDLE,
        "name": answer.name,
        "question": answer.question,
        "sql": answer.sql,
        "filters": answer.filters,
        "more": found.more,
        "columns": [*found.columns],
    }
    keys = "".join(f"{key}\n" for key in beside.keys)
    readme = _README.format(question=answer.question, origin=now.checkpoint.origin, size=now.size)
    yield "README.txt", readme.encode()
    yield "query.json", _spelled(query)
    yield "rows.json", _spelled([dict(zip(found.columns, row, strict=True)) for row in found.rows])
    yield "rows.csv", verifier.rows_as_csv(found.columns, found.rows).encode()
    yield "checkpoint", f"{now.note}".encode()
    if beside.old is not None:
        yield "checkpoint.old", f"{beside.old.note}".encode()
        yield "consistency", _consistency(connection, beside.old, now)
    yield "ledger.vkey", keys.encode()
    yield "verify.py", Path(verifier.__file__).read_bytes()


def _consistency(connection: Connection, old: Published, now: Published) -> bytes:
    """Prove that what the older checkpoint covers is the begin of what the newer one does, a hash a line."""
    hashes = TreeHashes(connection)
    if old.checkpoint.origin != now.checkpoint.origin or not 0 < old.size <= now.size:
        raise LedgerUnavailable(
            f"the older checkpoint is of {old.size} entries of {old.checkpoint.origin!r}; this is "
            f"{now.checkpoint.origin!r} with {now.size}"
        )
    if root_at(old.size, hashes) != old.checkpoint.root:
        raise LedgerUnavailable(
            "the ledger does not begin with what the older checkpoint covers. Keep both; run: toolgate "
            "ledger verify --checkpoint FILE"
        )
    proof = consistency_proof(old.size, now.size, hashes)
    return "".join(f"{base64.b64encode(part).decode()}\n" for part in proof).encode()


def _proven(connection: Connection, entries: list[int], now: Published) -> Iterator[tuple[str, bytes]]:
    """Give entries, and proofs that they are under the checkpoint."""
    hashes = TreeHashes(connection)
    bodies = connection.execute(select(ENTRY.c.idx, ENTRY.c.body).where(ENTRY.c.idx.in_(entries)))
    found = {index: stored_bytes(body) for index, body in bodies}
    for index in entries:
        if index not in found or index >= now.size:
            raise LedgerUnavailable(f"no checkpoint covers entry {index}, or it is missing; ask again")
        body = found[index]
        proof = inclusion_proof(index, now.size, hashes)
        if root_from_inclusion(index, now.size, leaf_hash(body), proof) != now.checkpoint.root:
            raise LedgerUnavailable(OTHERWISE)
        parts = [base64.b64encode(part).decode() for part in (body, *proof)]
        lines = [PROOF, f"extra {parts[0]}", f"index {index}", *parts[1:]]
        yield f"entries/{index}.json", body
        yield f"proofs/{index}.tlog-proof", ("\n".join(lines) + f"\n\n{now.note}").encode()


def _opened(connection: Connection, entries: list[int]) -> Iterator[tuple[str, bytes]]:
    """Give salts and values of what entries commit to, where values are kept."""
    asked = select(PAYLOAD).where(PAYLOAD.c.idx.in_(entries), PAYLOAD.c.value.is_not(None))
    openings: dict[int, JsonObject] = {}
    for row in connection.execute(asked.order_by(PAYLOAD.c.idx, PAYLOAD.c.field)):
        opened: JsonObject = {"salt": row.salt.hex(), "value": row.value.decode()}
        openings.setdefault(row.idx, {})[row.field] = opened
    for index, opening in openings.items():
        yield f"openings/{index}.json", _spelled(opening)


def _add(bundle: zipfile.ZipFile, name: str, content: bytes) -> None:
    info = zipfile.ZipInfo(name, _BEGIN)
    info.create_system, info.external_attr, info.compress_type = _UNIX, _FILE_MODE, zipfile.ZIP_DEFLATED
    bundle.writestr(info, content)


def _spelled(document: Any) -> bytes:  # noqa: ANN401 - any JSON value
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


_README: Final = """\
An answer out of the ledger {origin}, and what proves it.

    {question}

To verify it you need Python 3.11 or newer, the package `cryptography`, and the log's verifier key, which
somebody gave you another way than this file: ledger.vkey beside it shows nothing by itself.

    python3 -m pip install cryptography
    python3 verify.py bundle . --key KEY

KEY is the key itself (name+id+key) or a file with it. Add --checkpoint FILE for each checkpoint that you kept
from before. The exit code is 0 when all was verified, 1 when something was changed, 2 when it cannot be told.

verify.py is one file to read. If you do not trust the one in this bundle, take it from elsewhere.

    query.json          the question, its filters, the SQL
    rows.csv, rows.json the answer
    entries/            the entries that the rows name, and the ends of their calls, as they were recorded
    proofs/             that each of them is in the ledger (c2sp.org/tlog-proof)
    openings/           salt and value of what entries commit to, where values are kept and shown
    checkpoint          the signed state of the ledger, of {size} entries
    checkpoint.old      an older one, and `consistency`: that nothing before it was changed since
    ledger.vkey         the log's verifier keys, as the ledger's owner says

What cannot be proven so: that there are no other rows. For that, verify the whole ledger, or its export.
"""
