"""`make crash` and `make torture`: kill gates N times, and say whether every promise was kept.

What is drawn by chance is drawn from the seed; which of two processes is faster is not, so a seed repeats a
trial roughly. Exits with 1 when a promise was broken, and keeps the ledgers of those trials.
"""

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import get_args

from tests.torture.books import Database
from tests.torture.report import coverage, page, summary, table, unmet
from tests.torture.trial import Cell, Result, read, tried
from toolgate.core.tool import Duplicates

MOST_KILLS_A_TRIAL = 100
"""A ledger of some thousand entries; then a new one is begun, with another seed."""

ALL_MET = 100
"""Kills from which on something must have happened everywhere."""


def main() -> int:
    """Do what the command line asks; gives the exit code."""
    asked = _arguments().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: servers are stopped, and removed
    began = time.monotonic()
    results = asyncio.run(_all(cells(asked), asked.at_once, quiet=asked.json))
    results += [read(one) for one in json.loads(asked.beside.read_text("utf-8"))] if asked.beside else []
    broken = [result for result in results if result.violations]
    if asked.json:
        print(json.dumps([result.written for result in results], indent=2))
    else:
        print(table(results))
        for result in broken:
            print(f"\nto repeat: {result.cell.command}", *result.violations, sep="\n  ")
        print(f"{coverage(results)}\n{summary(results, time.monotonic() - began)}")
    lost = unmet(results)
    if lost and asked.kills >= ALL_MET:
        print(f"nothing ever happened {'; '.join(lost)}: the harness must follow", file=sys.stderr)
    if asked.page is not None and not broken:
        asked.page.write_text(page(results), "utf-8")
    return 1 if broken or (lost and asked.kills >= ALL_MET) else 0


def cells(asked: argparse.Namespace) -> list[Cell]:
    """Spread the kills over databases, modes and numbers of gates."""
    every: tuple[Duplicates, ...] = get_args(Duplicates)
    modes: list[Duplicates] = [mode for mode in every if asked.mode in {None, mode}]
    cells_: list[Cell] = []
    for database, kills in _shares(asked):
        gates = [asked.gates] if asked.gates else [1, 3] if database == "sqlite" else [3]
        pairs: list[tuple[Duplicates, int]] = [(mode, number) for mode in modes for number in gates]
        share = -(-kills // len(pairs))
        rounds = -(-share // MOST_KILLS_A_TRIAL)
        cells_ += [
            Cell(
                database=database,
                mode=mode,
                gates=number,
                kills=-(-share // rounds),
                seed=asked.seed + round_,
            )
            for round_ in range(rounds)
            for mode, number in pairs
        ]
    return cells_


def _shares(asked: argparse.Namespace) -> list[tuple[Database, int]]:
    """Say how many kills each database gets."""
    if asked.database != "both":
        return [(asked.database, asked.kills)]
    return [("sqlite", asked.kills), ("postgresql", asked.kills // 3)]


async def _all(wanted: list[Cell], at_once: int, *, quiet: bool) -> list[Result]:
    turn = asyncio.Semaphore(at_once)

    async def one(cell: Cell) -> Result:
        async with turn:
            folder = Path(tempfile.mkdtemp(prefix="torture-"))
            result = await tried(cell, folder)
            if result.violations:
                print(f"{cell.command}: broken; its ledger is in {folder}", file=sys.stderr)
                print(*result.violations, sep="\n", file=sys.stderr)
            else:
                shutil.rmtree(folder)
            if not quiet:
                print(
                    f"{cell.command}: {result.tally.kills} kills in {result.seconds:.0f} s", file=sys.stderr
                )
            return result

    return await asyncio.gather(*(one(cell) for cell in wanted))


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mode", choices=get_args(Duplicates), help="of the system; all four by turns")
    parser.add_argument("--gates", type=int, choices=(1, 3), help="on one ledger; on SQLite both by turns")
    parser.add_argument(
        "--database",
        choices=(*get_args(Database), "both"),
        default="sqlite",
        help="the gates'; of both, PostgreSQL gets a third as many kills",
    )
    parser.add_argument("--at-once", type=int, default=2, help="trials at the same time")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--beside", type=Path, help="the JSON of an earlier run, to be counted with this one")
    parser.add_argument("--page", type=Path, help="write the table into this file, when all is well")
    return parser


if __name__ == "__main__":
    sys.exit(main())
