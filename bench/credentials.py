"""`make bench`: what a credential costs, beside the same tool that needs none.

`python -m bench.credentials [--storage inmem raft]`: a real OpenBao with TLS, an audit log and that storage,
and a real PostgreSQL in which it makes users. Each storage is measured in a process of its own. A loan is a
lend and a take-back by themselves, for a caller whose token is as long as a real one; a call is the whole
way through the gateway, beside the same tool that needs no credential. The bars on loans are for CPU time of
the process, since others may use the machine; everything else is time by the clock.
"""

import argparse
import asyncio
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import uvloop

from bench.credentials_built import KINDS, NONE, Gate, bare_users, deploy, gate, standing
from tests.vault_server import Storage

ROUNDS, SECONDS, LEASING_SECONDS = 3, 0.7, 3.0
LOANS_HERE, LOANS_OF_VAULT = 3000, 300
ASKING, OTHERS = 50, 4
"""How many calls ask a vault that hangs, and how many callers use another tool meanwhile."""
RECOVERS_WITHIN = 30.0
USER = "vault-user"
HERE = (NONE, "file", "env", "vault-per-run")
"""Kinds that are lent without asking anybody."""
NAMES = {
    NONE: "no credential",
    "file": "file",
    "env": "env",
    "vault-per-run": "vault per_run, cached",
    USER: "vault per_call, user",
    "vault-kv": "vault per_call, kv",
    "vault-token": "vault per_call, token",
}
Figures = dict[str, float]


@dataclass(frozen=True)
class Bar:
    """What a figure has to be less than."""

    figure: str
    below: float


BARS = (
    Bar("vault per_run, cached: loan, CPU p99 (us)", 50),
    Bar("file: loan, CPU p99 (us)", 100),
    Bar("event loop's worst stall, vault hangs (ms)", 50),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", nargs="+", choices=get_args(Storage), default=["inmem", "raft"])
    parser.add_argument("--json", action="store_true", help="measure the one storage here, and write JSON")
    options = parser.parse_args()
    if options.json:
        print(json.dumps(measured(options.storage[0]), indent=2))
        return
    report = {storage: _in_a_process(storage) for storage in options.storage}
    print(f"{'':<58}" + "".join(f"{storage:>12}" for storage in report))
    for name in report[options.storage[0]]:
        print(f"{name:<58}" + "".join(f"{figures[name]:>12,.2f}" for figures in report.values()))
    for storage, figures in report.items():
        for bar in BARS:
            met = "met" if figures[bar.figure] < bar.below else "NOT MET"
            print(f"{storage:>8}: {bar.figure} < {bar.below:g}: {met}")


def _in_a_process(storage: str) -> Figures:
    command = [sys.executable, "-m", "bench.credentials", "--json", "--storage", storage]
    figures: Figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return figures


def measured(storage: Storage) -> Figures:
    """Measure credentials of every kind, the vault keeping its data in this way."""
    with tempfile.TemporaryDirectory() as folder, standing(Path(folder), storage) as governed:
        root = deploy(Path(folder), governed)

        async def all_of_it() -> Figures:
            async with gate(root, governed) as opened:
                await _warm(opened)
                return {
                    **await _loans(opened),
                    **await _calls(opened, 1),
                    **await _calls(opened, 8),
                    **await _leases(opened),
                    **await _hanging(opened),
                }

        return uvloop.run(all_of_it())


async def _warm(gate: Gate) -> None:
    for kind in KINDS:
        for _ in range(20):
            await _good(gate, kind)
    gc.collect()  # as `serve` does when all is built
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


async def _good(gate: Gate, kind: str) -> float:
    """Carry a call out, and give its milliseconds; a benchmark of failures would say nothing."""
    begin = time.perf_counter()
    if code := await gate.call(kind):
        raise SystemExit(f"a call of {kind}.echo failed: {code}")
    return (time.perf_counter() - begin) * 1000


async def _loans(gate: Gate) -> Figures:
    """Lend and take back, with no call around it; of several rounds the best counts."""
    figures: Figures = {}
    for kind in KINDS:
        if kind == NONE:
            continue
        count = LOANS_HERE if kind in HERE else LOANS_OF_VAULT
        rounds = [await _round_of_loans(gate, kind, count) for _ in range(ROUNDS if kind in HERE else 1)]
        wall, processor = min(rounds, key=lambda pair: statistics.fmean(pair[1]))
        for clock, taken in (("clock", wall), ("CPU", processor)):
            for share in (0.50, 0.95, 0.99):
                figures[f"{NAMES[kind]}: loan, {clock} p{share * 100:.0f} (us)"] = _percentile(taken, share)
    return figures


async def _round_of_loans(gate: Gate, kind: str, count: int) -> tuple[list[float], list[float]]:
    """Give microseconds by the clock and on the processor, all threads of the gate together."""
    wall: list[float] = []
    processor: list[float] = []
    for call in [gate.asked(kind) for _ in range(count)]:
        begun, used = time.perf_counter_ns(), time.process_time_ns()
        await gate.borrow(call)
        processor.append((time.process_time_ns() - used) / 1000)
        wall.append((time.perf_counter_ns() - begun) / 1000)
    return wall, processor


async def _calls(gate: Gate, at_once: int) -> Figures:
    """Call the tools; what each takes longer than the one without a credential, in the same round.

    Those that ask nobody differ by less than the machine does from one moment to the next, so their calls
    alternate with the baseline's.
    """
    rounds: list[dict[str, list[float]]] = []
    for _ in range(ROUNDS):
        taken = await _for_a_while(gate, HERE, at_once, SECONDS * len(HERE))
        for kind in [kind for kind in KINDS if kind not in HERE]:
            taken |= await _for_a_while(gate, [kind], at_once, SECONDS)
        rounds.append(taken)
    figures: Figures = {}
    for kind in KINDS:
        pairs = [(_percentile(taken[kind], 0.5), _percentile(taken[NONE], 0.5)) for taken in rounds]
        name = f"{NAMES[kind]}: call, {at_once} at a time"
        figures[f"{name}, p50 (ms)"] = statistics.median(mine for mine, _ in pairs)
        if kind != NONE:
            figures[f"{name}, added (ms)"] = statistics.median(mine - base for mine, base in pairs)
            figures[f"{name}, times as long"] = statistics.median(mine / base for mine, base in pairs)
    return figures


async def _for_a_while(
    gate: Gate, kinds: Sequence[str], at_once: int, seconds: float
) -> dict[str, list[float]]:
    """Call tools of these kinds in turn; the milliseconds of each call, by kind."""
    taken: dict[str, list[float]] = {kind: [] for kind in kinds}
    end = time.perf_counter() + seconds

    async def caller() -> None:
        while time.perf_counter() < end:
            for kind in kinds:
                taken[kind].append(await _good(gate, kind))

    await asyncio.gather(*(caller() for _ in range(at_once)))
    return taken


async def _leases(gate: Gate) -> Figures:
    """Make and end a database user for each call, as many as can be; and the same with hvac alone."""
    figures: Figures = {}
    for at_once in (1, 8, 16):
        bare = await asyncio.to_thread(bare_users, gate.governed, at_once, LEASING_SECONDS)
        begin = time.perf_counter()
        taken = await _for_a_while(gate, [USER], at_once, LEASING_SECONDS)
        rate = len(taken[USER]) / (time.perf_counter() - begin)
        figures[f"leases a second, {at_once} at a time"] = rate
        figures[f"the same with hvac alone, {at_once} at a time"] = bare
        figures[f"leases a second, of hvac alone, {at_once} at a time"] = rate / bare
        figures[f"leases that wait to be ended, after {at_once} at a time"] = gate.to_end()
    return figures


async def _hanging(gate: Gate) -> Figures:
    """Use another tool while the vault is well, and while it hangs and many calls ask it."""
    server = gate.governed.server
    well_stall, well = await _beside(gate, asyncio.create_task(asyncio.sleep(LEASING_SECONDS)))
    server.pause()
    try:
        begin = time.perf_counter()
        asking = asyncio.create_task(_ask_in_vain(gate))
        stall, hung = await _beside(gate, asking)
        seconds = time.perf_counter() - begin
        await asking
    finally:
        server.resume()
    return {
        "event loop's worst stall, vault well (ms)": well_stall,
        "event loop's worst stall, vault hangs (ms)": stall,
        "another tool's call, vault well, p50 (ms)": _percentile(well, 0.50),
        "another tool's call, vault hangs, p50 (ms)": _percentile(hung, 0.50),
        "another tool's call, vault well, p99 (ms)": _percentile(well, 0.99),
        "another tool's call, vault hangs, p99 (ms)": _percentile(hung, 0.99),
        "another tool's p99, vault hangs, times as long": _percentile(hung, 0.99) / _percentile(well, 0.99),
        f"{ASKING} calls are told that the vault hangs, within (s)": seconds,
        "the vault lends again after it hung, within (s)": await _recovered(gate),
    }


async def _ask_in_vain(gate: Gate) -> None:
    codes = set(await asyncio.gather(*(gate.call(USER, run=f"hung-{n}") for n in range(ASKING))))
    if not codes <= {"vault_slow", "vault_unreachable"}:
        raise SystemExit(f"calls of a vault that hangs ended with {codes}")


async def _beside(gate: Gate, meanwhile: asyncio.Task[None]) -> tuple[float, list[float]]:
    """Until `meanwhile` ends: how late the loop woke up at worst, and another tool's calls (milliseconds)."""
    worst = 0.0
    taken: list[float] = []

    async def caller() -> None:
        while not meanwhile.done():
            taken.append(await _good(gate, NONE))

    others = [asyncio.create_task(caller()) for _ in range(OTHERS)]
    while not meanwhile.done():
        begin = time.perf_counter()
        await asyncio.sleep(0.001)
        worst = max(worst, time.perf_counter() - begin - 0.001)
    await asyncio.gather(*others)
    return worst * 1000, taken


async def _recovered(gate: Gate) -> float:
    begin = time.perf_counter()
    while code := await gate.call(USER):
        if time.perf_counter() - begin > RECOVERS_WITHIN:
            raise SystemExit(f"the vault lends nothing after it hung: {code}")
        await asyncio.sleep(0.02)
    return time.perf_counter() - begin


def _percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


if __name__ == "__main__":
    main()
