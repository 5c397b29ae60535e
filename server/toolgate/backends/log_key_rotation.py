"""Changes the log's key: the old one endorses the new one in the ledger, and both sign the next checkpoint.

The new key lies beside the old one, as `.next`, before the ledger has the entry that names it. From then on
one rule says how it goes on, whoever has the writers' lock next: with the entry, the rotation is finished;
without it, there was none. Each step may be the last before a power cut.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from toolgate.backends.durable_files import sync_folder
from toolgate.backends.ledger_batch import Batch
from toolgate.backends.ledger_entries import Entries
from toolgate.backends.log_key import LogKey
from toolgate.backends.sql_connection import SqlConnection
from toolgate.backends.sql_tables import ENTRY, newest
from toolgate.core.errors import LedgerUnavailable

_LAST = newest("key_rotate", ENTRY.c.body)


def begin_rotation(
    batch: Batch, entries: Entries, file: Path, share: Callable[[Batch, LogKey], None] | None = None
) -> tuple[int, LogKey]:
    """Make the key that is to follow the one in `file`, and record it; the next checkpoint finishes this.

    Where other machines have the key, too, it is to be found in the same transaction: `share` sees to that.

    Raises:
        LedgerUnavailable: an earlier rotation waits to be finished, or another machine has changed the key.
    """
    old = LogKey.read(file)
    new = LogKey.new(old.verifier.name)
    waiting = LogKey.read(next_file(file)) if next_file(file).exists() else None
    if waiting is not None and str(waiting.verifier) == _last(batch.find(_LAST, {})):
        raise LedgerUnavailable("an earlier change of the key is not finished; run it again")
    if _last(batch.find(_LAST, {})) not in {"", str(old.verifier)}:
        raise LedgerUnavailable("another gate has changed the key; run it again once this one has it")
    new.keep(next_file(file))
    if share is not None:
        share(batch, new)
    endorsed = old.endorse(new.verifier)
    entry = entries.bare(
        "key_rotate", "rotated", old=str(old.verifier), new=str(new.verifier), endorsed=endorsed
    )
    return batch.append(entry), new


def key_in_force(connection: SqlConnection) -> str:
    """Give the verifier key of the last change of the key; an empty text where there was none."""
    return _last(_LAST.on(connection).fetchone())


def next_key(connection: SqlConnection, file: Path | None) -> LogKey | None:
    """Give the key that the ledger says is to follow the one in `file`; one that it does not know goes."""
    if file is None or not next_file(file).exists():
        return None
    key = LogKey.read(next_file(file))
    if key_in_force(connection) == str(key.verifier):
        return key
    next_file(file).unlink()
    return None


def finish_rotation(file: Path, old: LogKey, new: LogKey) -> LogKey:
    """Put the new key in the place of the old one, which is kept beside it; gives the new one."""
    old.keep(file.with_name(f"{file.name}.{old.verifier.id.hex()}"))
    new.show(file)
    next_file(file).replace(file)
    sync_folder(file)
    return LogKey.read(file)


def next_file(file: Path) -> Path:
    """Where the key lies that is to follow the one in `file`."""
    return file.with_name(f"{file.name}.next")


def _last(row: Any) -> str:  # noqa: ANN401 - a row of SQLite, or None
    """Give the key that the last rotation of the ledger put in force; an empty text where there was none."""
    return "" if row is None else str(orjson.loads(row["body"])["new"])
