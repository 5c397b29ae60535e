"""Activates versions of the policy: version, activation and entry in one transaction, or none of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from sqlalchemy import insert

from toolgate.backends.ledger_batch import Batch
from toolgate.backends.ledger_entries import Entries, Entry, micros
from toolgate.backends.ledger_writer import LedgerWriter
from toolgate.backends.policy_stored import (
    FILES,
    LAST_ENFORCED,
    LAST_SAID,
    LAST_SHADOW,
    Activation,
    Standing,
    read_files,
    standing_of,
)
from toolgate.backends.sql_tables import ACTIVATION, VERSION, Prepared
from toolgate.core.canonical import canonical
from toolgate.core.record import Json, JsonObject

Put = Literal["activated", "rolled_back", "shadowed"]
"""How a version gets its place: the status of the entry that says so."""
_STORE: Final = Prepared(insert(VERSION))
_ACTIVATE: Final = Prepared(insert(ACTIVATION))


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A version that shall be activated, as it was checked and tested."""

    digest: str
    files: Mapping[str, str]
    by: str
    """Pseudonym of the person who asks."""
    cases: int
    """How many of its cases passed."""
    because: str | None = None
    """Why it is activated although some failed; None when none did."""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What came of it."""

    entry: int
    """The entry that says so: an older one, where it stood so already."""
    previous: str
    """The version that had the place before; an empty text for none."""
    fresh: bool = True
    """False where nothing had to be written."""


class PolicyVersions:
    """Gives versions their places, through the one writer.

    Args:
        now: the clock (UTC).
    """

    def __init__(self, writer: LedgerWriter, entries: Entries, *, now: Callable[[], datetime]) -> None:
        self._writer, self._entries, self._now = writer, entries, now

    async def activate(self, asked: Asked, put: Put, *, instead_of: str | None = None) -> Recorded | None:
        """Put a version in force, or beside it in shadow; None when `instead_of` is no longer in force.

        A version that is put in force is no shadow any more.

        Raises:
            LedgerUnavailable: it could not be recorded; nothing may be assumed to have changed.
        """

        def work(batch: Batch) -> Recorded | None:
            standing = _standing(batch)
            if instead_of is not None and instead_of != _digest(standing.enforced):
                return None
            place = standing.shadow if put == "shadowed" else standing.enforced
            if place is not None and place.digest == asked.digest:
                return Recorded(entry=place.entry, previous=place.digest, fresh=False)
            self._store(batch, asked)
            if put != "shadowed" and asked.digest == _digest(standing.shadow):
                self._end(batch, asked.digest, asked.by)
            return self._put(batch, asked, put, _digest(place))

        return await self._writer.begin(work)

    async def end_shadow(self, by: str) -> Recorded | None:
        """End the shadow; None when there is none.

        Raises:
            LedgerUnavailable: it could not be recorded; nothing may be assumed to have changed.
        """

        def work(batch: Batch) -> Recorded | None:
            shadow = _standing(batch).shadow
            if shadow is None:
                return None
            return Recorded(entry=self._end(batch, shadow.digest, by), previous=shadow.digest)

        return await self._writer.begin(work)

    def _store(self, batch: Batch, asked: Asked) -> None:
        stored = batch.find(FILES, {"digest": asked.digest})
        if stored is not None:
            read_files(asked.digest, stored["files"])
            return
        files: JsonObject = dict(asked.files)
        row = {"digest": asked.digest, "files": canonical(files), "at": micros(self._now())}
        batch.execute(_STORE, row)

    def _put(self, batch: Batch, asked: Asked, put: Put, previous: str) -> Recorded:
        fields: dict[str, Json] = {"policy": asked.digest, "by": asked.by, "cases": asked.cases}
        fields["override"] = asked.because is not None
        if previous:
            fields["previous"] = previous
        kept: dict[str, Json] = {} if asked.because is None else {"because": asked.because}
        said = self._entries.committed("policy", put, kept, **fields)
        entry = _append(batch, said, asked.digest, "shadow" if put == "shadowed" else "enforced", previous)
        return Recorded(entry=entry, previous=previous)

    def _end(self, batch: Batch, digest: str, by: str) -> int:
        said = self._entries.bare("policy", "shadow_ended", policy=digest, by=by)
        return _append(batch, said, digest, "shadow_ended", digest)


def _standing(batch: Batch) -> Standing:
    """Give which versions have been activated, as this transaction sees it."""
    batch.flush()
    said = batch.find(LAST_SAID, {})
    entry = None if said is None else said["entry"]
    return standing_of(batch.find(LAST_ENFORCED, {}), batch.find(LAST_SHADOW, {}), entry)


def _append(batch: Batch, said: Entry, digest: str, mode: str, previous: str) -> int:
    entry = batch.append(said)
    row = {"entry": entry, "digest": digest, "mode": mode, "previous": previous}
    batch.execute(_ACTIVATE, row)
    return entry


def _digest(activation: Activation | None) -> str:
    return "" if activation is None else activation.digest
