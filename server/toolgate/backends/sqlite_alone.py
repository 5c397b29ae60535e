"""An SQLite ledger in the hands of one process: every other one is kept from writing, or is in the way."""

import fcntl
import os
import sqlite3
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from toolgate.backends.owners import is_gone
from toolgate.backends.sql_connection import SqliteConnection, cause
from toolgate.backends.sqlite_files import connected
from toolgate.core.errors import LedgerUnavailable

_PATIENCE: Final = 5.0
"""Seconds for which a command that writes a line may have the turn before it counts as in the way."""
_PAUSE: Final = 0.05


@contextmanager
def alone_with(path: Path) -> Generator[SqliteConnection]:
    """Keep the writers' turn of the file for all of the time, and let nobody else begin to write.

    Who starts meanwhile waits for the turn, and then looks at the file before anything else.

    Raises:
        LedgerUnavailable: another process has the file open for writing, or it cannot be read.
    """
    path = path.resolve()
    if not path.is_file():
        raise LedgerUnavailable(f"there is no ledger at {path}")
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take_the_turn(lock, path)
        if others := [
            file for file in _owners(path) if not is_gone(file.parent, file.name) and file.exists()
        ]:
            raise LedgerUnavailable(
                f"{path.name} is open in {len(others)} other process{'es' if len(others) > 1 else ''}: stop "
                "every gate that serves it, and every command that uses it"
            )
        connection = connected(path)
        try:
            yield connection
        except sqlite3.Error as error:
            raise LedgerUnavailable(f"{path.name} cannot be read ({cause(error)})") from error
        finally:
            connection.close()
    finally:
        os.close(lock)


def is_known_to_be_gone(path: Path, owner: str) -> bool:
    """Whether the process that was `owner` has ended; of one that left no file, nobody can tell."""
    return is_gone(_folder(path), owner)


def _take_the_turn(lock: int, path: Path) -> None:
    give_up = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise LedgerUnavailable(
                    f"another process keeps the writers' turn of {path.name}; wait for it, or stop it"
                ) from None
            time.sleep(_PAUSE)
        else:
            return


def _owners(path: Path) -> list[Path]:
    folder = _folder(path)
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _folder(path: Path) -> Path:
    return Path(f"{path.resolve()}.writers")
