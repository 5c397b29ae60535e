"""Changes the log's key: the old one endorses the new one in the ledger, and both sign the next checkpoint.

The new key lies beside the old one, as `.next`, before the ledger has the entry that names it. From then on
one rule says how it goes on, whoever has the writers' lock next: with the entry, the rotation is finished;
without it, there was none. Each step may be the last before a power cut.
"""

from pathlib import Path
from sqlite3 import Connection
from typing import Any

import orjson
from sqlalchemy import desc, select

from toolgate.backends.ledger_batch import Batch
from toolgate.backends.ledger_entries import Entries
from toolgate.backends.log_key import LogKey, sync_folder
from toolgate.backends.sql_tables import ENTRY, Prepared
from toolgate.core.errors import LedgerUnavailable

_LAST = Prepared(
    select(ENTRY.c.body).where(ENTRY.c.kind == "key_rotate").order_by(desc(ENTRY.c.idx)).limit(1)
)


def begin_rotation(batch: Batch, entries: Entries, file: Path) -> tuple[int, LogKey]:
    """Make the key that is to follow the one in `file`, and record it; the next checkpoint finishes this.

    Raises:
        LedgerUnavailable: an earlier rotation waits to be finished.
    """
    old = LogKey.read(file)
    new = LogKey.new(old.verifier.name)
    if _next(file).exists() and str(LogKey.read(_next(file)).verifier) == _last(batch.find(_LAST, {})):
        raise LedgerUnavailable("an earlier change of the key is not finished; run it again")
    new.keep(_next(file))
    endorsed = old.endorse(new.verifier)
    entry = entries.bare(
        "key_rotate", "rotated", old=str(old.verifier), new=str(new.verifier), endorsed=endorsed
    )
    return batch.append(entry), new


def next_key(connection: Connection, file: Path | None) -> LogKey | None:
    """Give the key that the ledger says is to follow the one in `file`; one that it does not know goes."""
    if file is None or not _next(file).exists():
        return None
    key = LogKey.read(_next(file))
    if _last(connection.execute(_LAST.text, _LAST.fixed).fetchone()) == str(key.verifier):
        return key
    _next(file).unlink()
    return None


def finish_rotation(file: Path, old: LogKey, new: LogKey) -> LogKey:
    """Put the new key in the place of the old one, which is kept beside it; gives the new one."""
    old.keep(file.with_name(f"{file.name}.{old.verifier.id.hex()}"))
    new.show(file)
    _next(file).replace(file)
    sync_folder(file)
    return LogKey.read(file)


def _next(file: Path) -> Path:
    return file.with_name(f"{file.name}.next")


def _last(row: Any) -> str:  # noqa: ANN401 - a row of SQLite, or None
    """Give the key that the last rotation of the ledger put in force; an empty text where there was none."""
    return "" if row is None else str(orjson.loads(row["body"])["new"])
