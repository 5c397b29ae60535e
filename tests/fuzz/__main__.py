"""`python -m tests.fuzz --minutes 10`: fire at a gate so long, and exit with 1 when anything was wrong."""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.firing import fire, verdict
from tests.fuzz.shots import Shot, shots
from tests.serving import serving
from tests.wire import LIMITS, Gate, becomes, wired

ROUND = 1_000
"""Shots until the ledger is compared with what happened."""


def main() -> int:
    """Do what the command line asks; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6, help="of the first round")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    root = folder / "root"
    subprocess.run([sys.executable, "-m", "toolgate", "init", str(root)], check=True, capture_output=True)
    with (root / "toolgate.toml").open("a", encoding="utf-8") as file:
        file.write(LIMITS)
    with serving(root) as served, wired(served) as gate:
        wrong = _rounds(gate, asked.seed, time.monotonic() + 60 * asked.minutes)
    print(*wrong, f"its deployment is in {folder}" if wrong else "nothing was wrong", sep="\n")
    if not wrong:
        shutil.rmtree(folder)
    return 1 if wrong else 0


def _rounds(gate: Gate, first: int, deadline: float) -> list[str]:
    number, memory, files = first, gate.memory(), gate.open_files()
    while time.monotonic() < deadline:
        _fire_round(gate, number, deadline)
        becomes(lambda: not verdict(gate))
        if wrong := verdict(gate):
            return [f"seed {number}:", *wrong]
        grown = (gate.memory() - memory) / 2**20
        print(
            f"seed {number}: {gate.ended()}; {grown:+.1f} MiB, {gate.open_files() - files:+d} files",
            flush=True,
        )
        number += 1
    return []


def _fire_round(gate: Gate, number: int, deadline: float) -> None:
    @seed(number)
    @settings(
        max_examples=ROUND,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(shot=shots(gate))
    def fired(shot: Shot) -> None:
        if time.monotonic() < deadline:
            fire(gate, shot)

    fired()


if __name__ == "__main__":
    sys.exit(main())
