"""`make clients`: Eight MCP clients before one gate. Exits 0 only if each did what it should.

Each lists, reads, writes, repeats the write under the same key, and is refused; the gate's ledger must agree.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from examples.clients.environments import EXAMPLES, Example
from examples.clients.gate import Gate, serving
from examples.clients.witness import STEPS, Seen, seen
from examples.demo.deployment import CannotStartError
from examples.node import CannotInstallError, find_node

_AT_ONCE = 4
_RUN_SECONDS = 120
console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Run:
    """One client in one era."""

    example: Example
    mode: str

    @property
    def caller(self) -> str:
        return "-".join(filter(None, (self.example.name, self.mode)))

    @property
    def era(self) -> str:
        return self.example.eras[self.mode]


@dataclass(frozen=True)
class Result:
    """What became of a run."""

    run: Run
    seen: Seen | None
    problem: str = ""
    """Why it is not all that it should be; empty if it is."""


def main() -> int:
    """Run it; give what the process exits with."""
    words = argparse.ArgumentParser(description="Eight MCP clients before one gate.")
    words.add_argument("--types", action="store_true", help="check the scripts' types, too")
    words.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(EXAMPLES)}; all if none")
    options = words.parse_args()
    names = options.names or list(EXAMPLES)
    if unknown := sorted(set(names) - EXAMPLES.keys()):
        words.error(f"there is no client {', '.join(unknown)}; there are {', '.join(EXAMPLES)}")
    began = time.monotonic()
    examples = [EXAMPLES[name] for name in dict.fromkeys(names)]
    runs = [Run(example, mode) for example in examples for mode in example.eras]
    try:
        with (
            tempfile.TemporaryDirectory(prefix="toolgate-clients-") as folder,
            serving(Path(folder) / "root", [run.caller for run in runs]) as gate,
            ThreadPoolExecutor(_AT_ONCE) as pool,
        ):
            of_each = pool.map(partial(_run_in_each_era, gate=gate, types=options.types), examples)
            results = [result for results in of_each for result in results]
    except CannotStartError as error:
        console.print(Text(f"The gate does not start: {error}", style="bold red"))
        return 1
    return _tell(results, time.monotonic() - began)


def _run_in_each_era(example: Example, gate: Gate, *, types: bool) -> list[Result]:
    """Install a client, check its types if wanted, and run it in each era that it speaks."""
    runs = [Run(example, mode) for mode in example.eras]
    try:
        command = example.prepare()
    except CannotInstallError as error:
        return [Result(run, None, f"it cannot be installed: {error}") for run in runs]
    if faults := example.type_faults() if types else "":
        return [Result(run, None, f"its types are wrong:\n{faults}") for run in runs]
    return [run_one(run, [*command, *filter(None, [run.mode])], gate) for run in runs]


def run_one(run: Run, command: list[str], gate: Gate) -> Result:
    """Run a client as its caller, with no other settings of whoever runs this."""
    with tempfile.TemporaryDirectory(prefix="toolgate-client-") as home:
        environment = {
            "PATH": f"{find_node().folder}{os.pathsep}{os.environ['PATH']}",
            "HOME": home,
            "GATE_URL": gate.url,
            "GATE_TOKEN": gate.token(run.caller),
        }
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False, timeout=_RUN_SECONDS
            )
        except subprocess.TimeoutExpired:
            return Result(run, None, f"it did not end in {_RUN_SECONDS} seconds")
    if done.returncode:
        return Result(run, None, f"it exited {done.returncode}:\n{done.stdout}{done.stderr}")
    try:
        found = seen(done.stdout, run.era, gate, run.caller)
    except ValueError as error:
        return Result(run, None, f"it said what cannot be read ({error}):\n{done.stdout}")
    return Result(run, found, "\n".join(found.missing))


def _tell(results: list[Result], seconds: float) -> int:
    table = Table("client", "revision", "key in", *STEPS)
    for result in results:
        found = result.seen
        if found is None:
            table.add_row(result.run.caller, "-", "-", *("no" for _ in STEPS), style="red")
        else:
            steps = ("yes" if step in found.done else "no" for step in STEPS)
            table.add_row(found.client, found.era, found.key, *steps, style="red" if result.problem else "")
    console.print(table)
    wrong = [result for result in results if result.problem]
    for result in wrong:
        console.print(Text(f"\n{result.run.caller}: {result.problem}", style="red"))
    if wrong:
        named = ", ".join(result.run.caller for result in wrong)
        console.print(Text(f"\nNot all of it happened: {named} ({seconds:.1f} s).", style="bold red"))
        return 1
    console.print(Text(f"\nAll of it happened, in {seconds:.1f} s.", style="bold green"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
