"""Which writing processes are alive: each holds a lock on a file of its own, which death lets go of.

A claim names its owner. One whose owner is gone needs no waiting: it is unknown at once. And one whose owner
is alive, stopped in mid-call say, may still send: nobody else may conclude that it did not.
"""

import fcntl
import os
import secrets
import socket
from collections.abc import Container
from pathlib import Path
from typing import Protocol

from sqlalchemy import and_, or_, select, union

from toolgate.backends.sql_connection import SqlConnection
from toolgate.backends.sql_tables import CLAIM, LEASE, VAULT_RUN, Prepared, spelled

_NEEDED = Prepared(
    union(
        select(CLAIM.c.owner).where(
            or_(
                CLAIM.c.state == spelled("in_progress"),
                and_(CLAIM.c.state == spelled("unknown"), CLAIM.c.ended == 0),
            )
        ),
        select(LEASE.c.owner),
        select(VAULT_RUN.c.owner),
    )
)


class Owners(Protocol):
    """The writing processes of one ledger, of which this is one."""

    @property
    def me(self) -> str:
        """This process, as claims name it."""
        ...

    def is_gone(self, owner: str) -> bool:
        """Whether the process that was `owner` has ended. Asked inside a transaction."""
        ...

    def has_ended(self, owner: str) -> bool:
        """The same, of one that may have left with all that showed it was there."""
        ...


class FileOwners:
    """The owners of one database file. All but leaving is done in a writer's turn.

    Args:
        folder: where their files lie, beside the database; made when it is not there.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = folder
        self.me = secrets.token_hex(8)
        self._mine = os.open(folder / self.me, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._mine, fcntl.LOCK_EX)

    def is_gone(self, owner: str) -> bool:
        """Whether the process that was `owner` has ended."""
        return owner != self.me and is_gone(self._folder, owner)

    def has_ended(self, owner: str) -> bool:
        """Whether the process that was `owner` has ended, or has left and taken its file away."""
        return not (self._folder / owner).exists() or self.is_gone(owner)

    def still_here(self) -> bool:
        """Whether others can see that this process is alive; not when somebody has removed its file."""
        return (self._folder / self.me).exists()

    def sweep(self, needed: Container[str]) -> None:
        """Remove the files of those that are gone, but for those whose death still has to be seen."""
        for file in self._folder.iterdir():
            if file.name not in needed and self.is_gone(file.name):
                file.unlink(missing_ok=True)

    def leave(self, needed: Container[str]) -> None:
        """Be gone; the file stays where that still has to be seen."""
        if self.me not in needed:
            (self._folder / self.me).unlink(missing_ok=True)
        os.close(self._mine)


def is_gone(folder: Path, owner: str) -> bool:
    """Whether the process that was `owner` has ended, by its file in `folder`.

    Without the file nobody can tell: it may have been removed under a living process.
    """
    try:
        theirs = os.open(folder / owner, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(theirs)
    return True


def here() -> str:
    """Name this process for people: host and process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def owners_needed(connection: SqlConnection) -> set[str]:
    """Give the owners of calls that may still be sent, and of leases that may still live."""
    return {row[0] for row in _NEEDED.on(connection)}
