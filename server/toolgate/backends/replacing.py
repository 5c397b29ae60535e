"""Writes a file so that whoever reads it finds the old text or the new one, and nothing between."""

import os
import tempfile
from pathlib import Path


def replace_file(file: Path, text: str) -> None:
    """Write `text` as UTF-8 in place of `file`, which keeps its mode; a link stays one.

    Raises:
        OSError: it cannot be written; the file is as it was.
    """
    target = file.resolve()
    if target.exists() and not target.is_file():  # a device or a pipe: it is written to, and stays one
        target.write_text(text, "utf-8")
        return
    handle, name = tempfile.mkstemp(prefix=".", suffix="~", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as written:
            os.fchmod(handle, _mode(target))
            written.write(text)
            written.flush()
            os.fsync(handle)
        Path(name).replace(target)
    finally:
        Path(name).unlink(missing_ok=True)


def _mode(file: Path) -> int:
    if file.exists():
        return file.stat().st_mode & 0o7777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
