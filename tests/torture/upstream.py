"""The system behind the gates: a process that outlives them, and writes down everything that it did.

It knows the four ways in which systems deal with duplicates, and misbehaves as networks do: it breaks the
line before or after it acts, acts only after the line broke, answers slowly, and gets a request twice.
"""

import asyncio
import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.torture.books import Book
from toolgate.core.tool import Duplicates

Weather = Literal["fair", "breaks before", "breaks after", "late", "slow", "twice"]
BUSY_SECONDS = 0.01
"""A look-up is answered after what has arrived before it."""


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """How to run the system."""

    address: Path
    book: Book
    """The gates', which it looks into."""
    log: Path
    """A file in which it writes a line for each request, effect, repetition and look-up."""
    mode: Duplicates
    seed: int = 0
    weather: Mapping[Weather, float] = field(default_factory=lambda: {"fair": 1.0})
    late: tuple[float, float] = (0.03, 0.12)
    """Seconds between which a late request arrives."""
    slow: tuple[float, float] = (0.05, 0.4)


class System:
    """What the system has done."""

    def __init__(self, upstream: Upstream) -> None:
        self._mode, self._book = upstream.mode, upstream.book.open()
        self._log = upstream.log.open("a", encoding="utf-8", buffering=1)
        self._effects = 0
        self._by_key: dict[str, int] = {}
        self._state: dict[int, int] = {}

    def apply(self, key: str, number: int) -> int:
        """Do what was asked, as far as it is not done; gives the number of the effect."""
        if self._mode == "key" and key in self._by_key:
            return self._repeated(key, number, self._by_key[key])
        if self._mode == "natural" and number in self._state:
            return self._repeated(key, number, self._state[number])
        self._effects += 1
        self._by_key.setdefault(key, self._effects)
        self._state[number] = self._effects
        self.note("effect", key, number, intent=self._has_intent(key))
        return self._effects

    def find(self, key: str) -> int | None:
        """Say which effect a key had."""
        return self._by_key.get(key)

    def note(self, what: str, key: str, number: int, **more: Any) -> None:  # noqa: ANN401 - any JSON
        """Write a line."""
        line = {"what": what, "key": key, "number": number, "at": time.time(), **more}
        self._log.write(json.dumps(line) + "\n")

    def _repeated(self, key: str, number: int, effect: int) -> int:
        self.note("repetition", key, number)
        return effect

    def _has_intent(self, key: str) -> bool:
        """Whether, at this moment, the intent of the call can be read by a stranger."""
        query = "SELECT 1 FROM ledger_entry WHERE call_id = ? AND kind = 'intent'"
        return bool(self._book.ask(query, key))


class Desk:
    """Takes requests, one a connection, in changing weather."""

    def __init__(self, upstream: Upstream, system: System) -> None:
        self._upstream, self._system = upstream, system
        self._random = random.Random(upstream.seed)  # noqa: S311 - to be repeated
        self._weather: dict[Weather, float] = dict(upstream.weather)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request; a line that is cut off is none."""
        try:
            line = await reader.readline()
            if line.endswith(b"\n"):
                await self._answer(json.loads(line), writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _answer(self, asked: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        if asked["do"] == "calm":
            self._weather = {"fair": 1.0}
        elif asked["do"] == "find":
            await asyncio.sleep(BUSY_SECONDS)
            found = self._system.find(asked["key"])
            self._system.note("look-up", asked["key"], asked["number"], found=found)
            writer.write(json.dumps({"effect": found}).encode() + b"\n")
        else:
            await self._act(asked["key"], asked["number"], writer)

    def _next_weather(self) -> Weather:
        kinds: list[Weather] = list(self._weather)
        return self._random.choices(kinds, list(self._weather.values()))[0]

    async def _act(self, key: str, number: int, writer: asyncio.StreamWriter) -> None:
        weather = self._next_weather()
        self._system.note("request", key, number, weather=weather)
        match weather:
            case "breaks before":
                return
            case "late":
                writer.close()
                await asyncio.sleep(self._random.uniform(*self._upstream.late))
            case "slow":
                await asyncio.sleep(self._random.uniform(*self._upstream.slow))
            case "twice":
                self._system.apply(key, number)
            case "fair" | "breaks after":
                pass
        effect = self._system.apply(key, number)
        if weather not in {"breaks after", "late"}:
            writer.write(json.dumps({"effect": effect}).encode() + b"\n")


def run(upstream: Upstream) -> None:
    """Be the system, until somebody ends the process."""
    asyncio.run(_run(upstream))


async def _run(upstream: Upstream) -> None:
    desk = Desk(upstream, System(upstream))
    server = await asyncio.start_unix_server(desk.serve, upstream.address)
    await server.serve_forever()
