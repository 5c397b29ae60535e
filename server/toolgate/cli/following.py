"""What a gate does while it serves: it takes up changes, and looks after its own house."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from toolgate.backends.policy_stored import SHORT
from toolgate.core.errors import Fault, LedgerUnavailable
from toolgate.main import House

log = logging.getLogger("toolgate")
KEEP_SECONDS: Final = 2.0
"""How often calls in doubt are looked after."""
LOOK_SECONDS: Final = 0.25
"""How often it is looked for changes: on the disk in dev mode, else for a newly activated policy."""
LOOK_FOR_CHECKPOINTS: Final = 0.5
"""How often it is looked for a checkpoint that witnesses have not cosigned."""
_LONGEST_PAUSE: Final = 10.0
"""Before what could not be taken up is tried again; at first it is `LOOK_SECONDS`."""


async def follow_changes(
    house: House, announce: Callable[[], Awaitable[None]], renew: Callable[[], None] | None = None
) -> None:
    """Take up changes: all on SIGHUP; by itself an activated policy or, in dev mode, what is on disk.

    What could not be read or recorded is tried again until it is: forgotten, it would stay out of force.
    `renew` is called on SIGHUP, too; it tells by itself what it could not do.
    """
    changes = _Changes(house, announce, _stamp(house), renew)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, changes.asked.set)
    pause, told = LOOK_SECONDS, ""
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(changes.asked.wait(), LOOK_SECONDS)
        try:
            await changes.look()
        except Exception as error:  # noqa: BLE001 - whatever is wrong, this change and the next must be seen
            if repr(error) != told:
                _tell(error)
            told = repr(error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        else:
            pause, told = LOOK_SECONDS, ""


def _tell(error: Exception) -> None:
    unexpected = None if isinstance(error, LedgerUnavailable) else error
    log.error("not taken up, and tried again until it is: %s", error, exc_info=unexpected)


@dataclass
class _Changes:
    """What is new, until it has been taken up or refused."""

    house: House
    announce: Callable[[], Awaitable[None]]
    stamp: list[tuple[str, int]]
    """Of the files that were read last."""
    renew: Callable[[], None] | None = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def look(self) -> None:
        """Take up what is new.

        Raises:
            LedgerUnavailable: it could not be read or recorded, and is still new.
        """
        dev = self.house.settings.mode == "dev"
        seen = _stamp(self.house) if dev else self.stamp
        try:
            if self.asked.is_set() or seen != self.stamp:
                await self._reload()
                self.stamp = seen
        finally:
            if not dev:  # a registry that cannot be read keeps no activated policy out of force
                await _take_up(self.house, self.house.follow, self.announce)

    async def _reload(self) -> None:
        asked = self.asked.is_set()
        self.asked.clear()  # before anything is read: who asks meanwhile may mean what has been read already
        try:
            if asked and self.renew is not None:
                await asyncio.to_thread(self.renew)
            await _take_up(self.house, self.house.reload, self.announce)
        except Exception:
            if asked:
                self.asked.set()
            raise


async def _take_up(
    house: House, read: Callable[[], Awaitable[Sequence[Fault]]], announce: Callable[[], Awaitable[None]]
) -> None:
    before = house.in_force.rulebook.version
    try:
        for fault in await read():
            log.error("not taken up, the last good version stays in force: %s", fault)
    finally:
        if house.in_force.rulebook.version != before:
            log.warning(
                "version %s is in force (policy %s)",
                house.in_force.rulebook.version,
                house.in_force.rulebook.policy.digest[:SHORT],
            )
            await announce()


async def keep(house: House) -> None:
    """Look after the ledger, calls in doubt and credentials; none waits for another."""
    works = [_again_and_again(work) for work in (house.keep, house.ask_around, house.lending.keep)]
    await asyncio.gather(*works, _again_and_again(house.ask_witnesses, pause=LOOK_FOR_CHECKPOINTS))


async def _again_and_again(work: Callable[[], Awaitable[None]], pause: float = KEEP_SECONDS) -> None:
    """Do `work` every few seconds; a database that is gone may come back."""
    while True:
        try:
            await work()
        except (LedgerUnavailable, OSError) as error:
            log.warning("the ledger could not be looked after: %s", error)
        await asyncio.sleep(pause)


def _stamp(house: House) -> list[tuple[str, int]]:
    folders = (house.root / house.settings.policies, house.root / house.settings.registry)
    files = sorted(file for folder in folders for file in folder.rglob("*"))
    stamps: list[tuple[str, int]] = []
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            stamps.append((str(file), file.stat().st_mtime_ns))
    return stamps
