"""Brings files and folders to the disk, and puts a small file in the place of another one."""

import os
from pathlib import Path


def replace_file(file: Path, text: str, mode: int) -> None:
    """Put `text` in the place of the file, wholly and durably."""
    new = file.with_name(f"{file.name}.{os.getpid()}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    new.replace(file)
    sync_folder(file)


def sync_folder(file: Path) -> None:
    """Make durable what a rename beside `file` did."""
    sync(file.parent)


def sync(path: Path) -> None:
    """Make durable what was written to a file; of a folder, which names are in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
