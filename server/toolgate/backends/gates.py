"""The gates on one ledger, what each of them runs, and whether it is alive."""

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from sqlalchemy import bindparam, delete, insert, select, update

from toolgate import __version__
from toolgate.backends.ledger_batch import Batch
from toolgate.backends.ledger_database import SqliteFile, TreeDatabase
from toolgate.backends.ledger_writer import LedgerWriter
from toolgate.backends.owners import here, is_gone, owners_needed
from toolgate.backends.postgres_watch import standing_of
from toolgate.backends.sql_connection import SqlConnection, SqlRow
from toolgate.backends.sql_tables import GATE, Prepared

log = logging.getLogger(__name__)

Standing: TypeAlias = Literal["alive", "gone", "left"]
"""It is there; it ended without a word, or cannot be heard of; it has said that it ends."""
Compared: TypeAlias = Literal["policy", "registry", "program"]
"""What is to be the same on all gates."""

_AGAIN: Final = 30.0
"""Seconds after which a gate says again what it runs: others may have forgotten one that was out of sight."""
_LOOK: Final = 5.0
"""Seconds between two looks at the others, where there is no news: each takes the turn of all writers."""
_ALL: Final = Prepared(select(GATE).order_by(GATE.c.started_at, GATE.c.owner))
_ADD: Final = Prepared(insert(GATE))
_FORGET: Final = Prepared(delete(GATE).where(GATE.c.owner == bindparam("owner_")))
_SAY: Final = Prepared(
    update(GATE)
    .where(GATE.c.owner == bindparam("owner_"))
    .values(**{name: bindparam(name) for name in ("address", "policy", "catalog", "settings", "shadow")})
)


@dataclass(frozen=True, kw_only=True)
class Running:
    """What a gate runs: digests, and where it is to be reached."""

    policy: str
    catalog: str
    """Of the registry: its manifests."""
    settings: str
    shadow: str = ""
    address: str = ""
    """What it listens on; an empty text for one that serves over stdio."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A gate, as the others see it."""

    owner: str
    name: str
    program: str
    started_at: int
    seen_at: int | None
    """Microseconds since 1970; None where nobody says so, because its lock shows that it lives."""
    standing: Standing
    running: Running


class Gates:
    """This gate among those on its ledger."""

    def __init__(self, writer: LedgerWriter) -> None:
        self._writer = writer
        self._said: Running | None = None
        self._say_again = self._look_again = 0.0
        self.address = ""
        """What this gate listens on, once it does."""
        self.others: tuple[Gate, ...] = ()
        """Those that were alive when somebody looked last."""

    async def look(self, running: Running) -> None:
        """Say what this gate runs, where that has changed, and see what the others run.

        Raises:
            LedgerUnavailable: the database cannot be asked.
        """
        news = running != self._said or time.monotonic() >= self._say_again
        if not news and time.monotonic() < self._look_again:
            return
        self._look_again = time.monotonic() + _LOOK
        rows = await self._writer.write(lambda batch: self._exchange(batch, running if news else None))
        if news:
            self._said, self._say_again = running, time.monotonic() + _AGAIN
        before = {(gate.owner, differing(gate, running)) for gate in self.others}
        self.others = tuple(rows)
        for gate in self.others:
            differs = differing(gate, running)
            if differs and (gate.owner, differs) not in before:
                log.warning(
                    "the gate %s runs another %s; see: toolgate status", gate.name, " and ".join(differs)
                )

    def differences(self) -> list[Compared]:
        """Say in what the gates that are alive differ from this one."""
        said = self._said
        return sorted({what for gate in self.others for what in differing(gate, said)} if said else ())

    def _exchange(self, batch: Batch, running: Running | None) -> list[Gate]:
        owners = self._writer.owners
        rows = batch.execute(_ALL, {}).fetchall()
        if running is not None:
            if not any(row["owner"] == owners.me for row in rows):
                self._come_in(batch, [row["owner"] for row in rows])
            batch.execute(_SAY, vars(running) | {"owner_": owners.me})
        others = [row for row in rows if row["owner"] != owners.me and row["catalog"]]
        return [_gate(row, "alive") for row in others if not owners.has_ended(row["owner"])]

    def _come_in(self, batch: Batch, others: Iterable[str]) -> None:
        needed = owners_needed(batch.connection)
        for owner in others:
            if owner not in needed and self._writer.owners.has_ended(owner):
                batch.execute(_FORGET, {"owner_": owner})
        at = time.time_ns() // 1000
        row = dict.fromkeys((field.name for field in fields(Running)), "")
        said = {"owner": self._writer.owners.me, "name": here(), "program": __version__}
        batch.execute(_ADD, row | said | {"started_at": at, "seen_at": at})


def differing(gate: Gate, running: Running, program: str = __version__) -> tuple[Compared, ...]:
    """Say in what a gate differs from what should run."""
    ours: dict[Compared, str] = {"policy": running.policy, "registry": running.catalog, "program": program}
    theirs: dict[Compared, str] = {
        "policy": gate.running.policy,
        "registry": gate.running.catalog,
        "program": gate.program,
    }
    return tuple(what for what in ours if ours[what] != theirs[what])


def gates_on(database: TreeDatabase, *, lapse: float) -> Sequence[Gate]:
    """Give the gates that the ledger knows of, and how each of them stands; the first to start is first.

    Args:
        database: where the ledger is.
        lapse: seconds without a word after which a gate is taken for gone.

    Raises:
        LedgerUnavailable: it cannot be read.
    """
    with database.reading() as connection:
        rows = [row for row in _ALL.on(connection).fetchall() if row["catalog"]]
        if isinstance(database, SqliteFile):
            folder = Path(f"{database.path.resolve()}.writers")
            return [_gate(row, _by_file(folder, row["owner"]), heard=False) for row in rows]
        return [_gate(row, _by_word(connection, row, lapse)) for row in rows]


def _by_file(folder: Path, owner: str) -> Standing:
    if not (folder / owner).exists():
        return "left"
    return "gone" if is_gone(folder, owner) else "alive"


def _by_word(connection: SqlConnection, row: SqlRow, lapse: float) -> Standing:
    return "left" if row["seen_at"] == 0 else standing_of(connection, row["owner"], lapse)


def _gate(row: SqlRow, standing: Standing, *, heard: bool = True) -> Gate:
    said: dict[str, Any] = {field.name: row[field.name] for field in fields(Running)}
    return Gate(
        owner=row["owner"],
        name=row["name"],
        program=row["program"],
        started_at=row["started_at"],
        seen_at=row["seen_at"] or None if heard else None,
        standing=standing,
        running=Running(**said),
    )
