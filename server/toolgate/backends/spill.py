"""Ends of calls that the database would not take, each in a file of its own until it does."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import orjson
from pydantic import Field, ValidationError

from toolgate.backends.durable_files import sync_folder
from toolgate.core.claims import State
from toolgate.core.record import JsonObject, Record

log = logging.getLogger(__name__)


class Spilled(Record):
    """What would have been written: an end's entries, and what becomes of its claim."""

    call_id: str
    attempt: int = Field(ge=1, lt=2**31)
    intent: int = Field(ge=0, lt=2**53)
    claimed: bool
    owner: str
    state: State
    outcome: str
    until: int = Field(ge=0, lt=2**53)
    leases: tuple[JsonObject, ...]
    end: JsonObject
    salts: dict[str, Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$")]]
    """Of the end's commitments, hexadecimal."""
    values: dict[str, str]


class Spill:
    """Keeps spilled ends in a folder, by fsync and rename."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, spilled: Spilled) -> None:
        """Make an end durable outside the database.

        Raises:
            OSError: not even that can be written.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = self._file(spilled)
        new = file.with_suffix(".new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(orjson.dumps(spilled.model_dump(mode="json")))
            opened.flush()
            os.fsync(opened.fileno())
        new.replace(file)
        sync_folder(file)

    def kept(self) -> Iterator[Spilled]:
        """Give what was kept, oldest call first; what cannot be read is left for a person."""
        for file in sorted(self._folder.glob("*.json")):
            try:
                yield Spilled.model_validate_json(file.read_bytes())
            except (OSError, ValidationError) as error:
                said = "%s holds the end of a call and cannot be read (%s)"
                log.error(said, file, type(error).__name__)  # noqa: TRY400 - the error would show values

    def forget(self, spilled: Spilled) -> None:
        """Remove what the database has taken."""
        self._file(spilled).unlink(missing_ok=True)

    def _file(self, spilled: Spilled) -> Path:
        return self._folder / f"{spilled.call_id}-{spilled.attempt}.json"
