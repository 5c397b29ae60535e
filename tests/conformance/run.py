"""`python -m tests.conformance.run`: the official suite against the gate, and what is expected of it."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from examples.node import install
from tests.conformance.deployment import deployed
from tests.conformance.judging import Judged, judge
from tests.conformance.not_offered import NOT_OFFERED
from tests.conformance.page import page
from tests.conformance.suites import FOLDER, SUITES, Suite


def main() -> int:
    """Run all suites; 0 only if each scenario does what is expected of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", type=Path, help="write what was seen as this page")
    wanted = parser.parse_args().page
    install(FOLDER)
    with tempfile.TemporaryDirectory() as folder:
        runs = asyncio.run(_run(Path(folder)))
    for version, part, judged in runs:
        _tell(version, part, judged)
    every = [one for *_, judged in runs for one in judged]
    unknown = {entry.scenario for entry in NOT_OFFERED} - {one.scenario for one in every}
    for name in sorted(unknown):
        print(f"no suite has a scenario {name}: take it out of tests/conformance/not_offered.py")
    surprises = sum(not one.expected for one in every) + len(unknown)
    if wanted and not surprises:
        wanted.write_text(page(runs), "utf-8")
    print(f"{sum(one.expected for one in every)} passed, {surprises} failed")
    return 1 if surprises else 0


async def _run(folder: Path) -> list[tuple[str, str, list[Judged]]]:
    runs: list[tuple[str, str, list[Judged]]] = []
    async with deployed(folder / "gate") as url:
        for number, suite in enumerate(SUITES):
            results = folder / f"results-{number}"
            judged = judge(await suite.run(url, results), await suite.scenarios())
            runs.append((suite.version, suite.part, await _surely(suite, url, results, judged)))
    return runs


async def _surely(suite: Suite, url: str, folder: Path, judged: list[Judged]) -> list[Judged]:
    """Run once more what failed: the suite waits for a second or two, and a busy machine may need longer."""
    again: dict[str, Judged] = {}
    for one in judged:
        if one.verdict == "FAILS":
            print(f"{suite.version}, {suite.part}: {one.scenario} failed and is run once more: {one.faults}")
            results = await suite.run_one(one.scenario, url, folder / f"{one.scenario} again")
            again[one.scenario] = judge(results, [one.scenario])[0]
    return [again.get(one.scenario, one) for one in judged]


def _tell(version: str, part: str, judged: list[Judged]) -> None:
    print(f"\nconformance {version}, {part}")
    for one in judged:
        print(f"  {one.scenario:<50} {one.passed:>3} checks passed  {one.verdict}")
        for fault in one.faults:
            print(f"      {fault}")


if __name__ == "__main__":
    sys.exit(main())
