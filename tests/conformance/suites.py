"""The official suite, in the versions that `suites/package-lock.json` pins, run against a server."""

import asyncio
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

from examples.node import find_node

FOLDER: Final = Path(__file__).parent / "suites"
Status = Literal["SUCCESS", "FAILURE", "WARNING", "SKIPPED", "INFO"]
_SECONDS: Final = 300
_LISTED: Final = re.compile(r"^  - (\S+) \[(.+)\]$", re.MULTILINE)
_RESULT: Final = re.compile(r"server-(.+)-\d{4}-\d\d-\d\dT[\d-]+Z")


@dataclass(frozen=True)
class Check:
    """One thing that a scenario looked at."""

    id: str
    status: Status
    message: str


Results: TypeAlias = dict[str, list[Check]]
"""The checks of each scenario, by its name."""


@dataclass(frozen=True)
class Suite:
    """One version of the suite, for one revision of MCP or for its extensions."""

    package: str
    part: str
    """A revision, or `extension`."""

    @property
    def version(self) -> str:
        """The version of the package that is installed."""
        return str(json.loads((self._package / "package.json").read_text("utf-8"))["version"])

    @property
    def _package(self) -> Path:
        return FOLDER / "node_modules" / self.package

    async def scenarios(self) -> list[str]:
        """Give the names of all scenarios for servers that belong to the part."""
        told = await self._run("list", "--server")
        return [name for name, parts in _LISTED.findall(told) if self.part in parts.split(",")]

    async def run(self, url: str, folder: Path) -> Results:
        """Run every scenario against `url`; what the suite writes goes into `folder`."""
        if self.part == "extension":
            found: Results = {}
            for name in await self.scenarios():
                found |= await self.run_one(name, url, folder / name)
            return found
        options = ("--suite", "all", "--spec-version", self.part)
        await self._run("server", "--url", url, "--output-dir", str(folder), *options)
        return dict(_results(folder))

    async def run_one(self, scenario: str, url: str, folder: Path) -> Results:
        """Run one scenario."""
        revision = () if self.part == "extension" else ("--spec-version", self.part)
        options = ("--scenario", scenario, *revision)
        await self._run("server", "--url", url, "--output-dir", str(folder), *options)
        return dict(_results(folder))

    async def _run(self, *words: str) -> str:
        """Run the suite's program. It exits with 1 where a check has failed, and its files say which."""
        command = [*find_node().node, str(self._package / "dist" / "index.js"), *words]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        async with asyncio.timeout(_SECONDS):
            told, _ = await process.communicate()
        if process.returncode not in {0, 1}:
            raise RuntimeError(f"{' '.join(words)} ended with {process.returncode}:\n{told.decode()}")
        return told.decode()


SUITES: Final = (
    Suite("conformance-0.1", "2025-11-25"),
    Suite("conformance-0.2", "2025-11-25"),
    Suite("conformance-0.2", "2026-07-28"),
    Suite("conformance-0.2", "extension"),
)


def _results(folder: Path) -> list[tuple[str, list[Check]]]:
    """Read what the suite wrote: a folder for each scenario."""
    found: list[tuple[str, list[Check]]] = []
    for file in sorted(folder.glob("*/checks.json")):
        name = _RESULT.fullmatch(file.parent.name)
        if name is None:
            raise RuntimeError(f"the suite wrote {file.parent.name}, which names no scenario")
        checks = [_check(said) for said in json.loads(file.read_text("utf-8"))]
        found.append((name[1], checks))
    return found


def _check(said: dict[str, str]) -> Check:
    status = next(known for known in get_args(Status) if known == said["status"])
    return Check(said["id"], status, said.get("errorMessage") or "")
