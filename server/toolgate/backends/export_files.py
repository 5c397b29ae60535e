"""Files of an export: each is there wholly or not at all, whenever the export is broken off."""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from toolgate.backends.durable_files import sync, sync_folder
from toolgate.core.errors import LedgerUnavailable

_PRIVATE: Final = 0o600
_ANYONE: Final = 0o666
"""Less what the umask takes away."""


@contextmanager
def replaced(file: Path, *, private: bool = False) -> Generator[BinaryIO]:
    """Write a file that takes its place only when it is whole and on the disk.

    What a broken export leaves behind is `.NAME.part` beside it, which the next one overwrites. Only its
    owner can read a private one, whatever the umask says, and whatever an older draft allowed.
    """
    draft = file.with_name(f".{file.name}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    with os.fdopen(os.open(draft, flags, _PRIVATE if private else _ANYONE), "wb") as opened:
        if private:
            os.fchmod(opened.fileno(), _PRIVATE)
        yield opened
        opened.flush()
        os.fsync(opened.fileno())
    draft.replace(file)
    sync_folder(file)


def write_quickly(file: Path, content: bytes) -> None:
    """Put `content` in the place of `file`: whole for every reader, on the disk only after `synced`."""
    draft = file.with_name(f".{file.name}.part")
    try:
        draft.write_bytes(content)
    except FileNotFoundError:
        file.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(content)
    draft.replace(file)


def synced(files: list[Path], top: Path) -> None:
    """Bring to the disk what was written to these files, and their names in the folders up to `top`."""
    folders: set[Path] = set()
    for file in files:
        sync(file)
        folders.update(folder for folder in file.parents if folder == top or top in folder.parents)
    for folder in folders:
        sync(folder)


@contextmanager
def alone_in(folder: Path) -> Generator[None]:
    """Be the only export that writes into the folder, which is made where it is not there.

    Raises:
        LedgerUnavailable: another one is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise LedgerUnavailable(f"another export writes into {folder}; wait for it") from error
