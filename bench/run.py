"""`make bench`: a governed read and write beside the same tool on a bare SDK server and on FastMCP.

With `--database postgresql`, several gates that share a ledger on a PostgreSQL server stand beside one gate
on SQLite; the clients' connections are spread over them. The server waits for its disk, as in use.

They are measured in turns, several rounds, on one machine in one run; what counts is the ratio. All servers
answer in plain JSON. The governed read writes three ledger entries and borrows a credential; the governed
write has a key of its own in each call. Both are durable before the act and before the answer. FastMCP checks
a token, limits rates and logs; it judges nothing, and records nothing.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

import psutil
import uvloop

from bench.load import Result, Target, load
from bench.servers import bare, fastmcp, governed, governed_on_postgresql
from examples.demo.waiting import free_port

Rounds = dict[str, list[Result]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--gates", type=int, default=3, help="on PostgreSQL")
    parser.add_argument("--tcp", action="store_true", help="reach PostgreSQL over TCP, not over its socket")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 32])
    options = parser.parse_args()
    with ExitStack() as open_:
        folder = Path(open_.enter_context(tempfile.TemporaryDirectory()))
        targets, pids = _started(open_, folder, options)
        report = {
            connections: uvloop.run(_rounds(targets, connections, options.rounds, options.seconds))
            for connections in options.connections
        }
        memory = {name: sum(map(_megabytes, of)) for name, of in pids.items()}
    if options.json:
        print(json.dumps({"calls": _figures(report), "memory_mb": memory}, indent=2))
    else:
        _print(report, memory)


def _started(
    open_: ExitStack, folder: Path, options: argparse.Namespace
) -> tuple[dict[str, Target], dict[str, list[int]]]:
    """Start all sides; give what is called, and whose memory is looked at."""
    targets: dict[str, Target] = {}
    pids: dict[str, list[int]] = {}
    targets["bare"], pid = open_.enter_context(bare(folder, free_port()))
    read, write, pids["governed"] = open_.enter_context(governed(folder, free_port()))
    targets |= {"governed read": read, "governed write": write}
    pids["bare"] = [pid]
    if options.database == "sqlite":
        targets["FastMCP"], pid = open_.enter_context(fastmcp(folder, free_port()))
        pids["FastMCP"] = [pid]
        return targets, pids
    ports = [free_port() for _ in range(options.gates)]
    many = f"{options.gates} gates"
    shared = open_.enter_context(governed_on_postgresql(folder, ports, tcp=options.tcp))
    targets[f"{many} read"], targets[f"{many} write"], pids[many] = shared
    return targets, pids


async def _rounds(targets: dict[str, Target], connections: int, rounds: int, seconds: float) -> Rounds:
    for target in targets.values():
        await load(target, connections=connections, seconds=1.0)
    results: Rounds = {name: [] for name in targets}
    for _ in range(rounds):
        for name, target in targets.items():
            results[name].append(await load(target, connections=connections, seconds=seconds))
            await asyncio.sleep(0.1)
    return results


def _ratio(rounds: Rounds, name: str) -> float:
    """The median over the rounds of this rate to the bare one of the same round."""
    pairs = zip(rounds[name], rounds["bare"], strict=True)
    return statistics.median(result.rate / reference.rate for result, reference in pairs)


def _figures(report: dict[int, Rounds]) -> dict[str, dict[str, float]]:
    return {
        f"{name} at {connections}": {
            "calls_per_second": round(statistics.median(r.rate for r in results)),
            "ratio": round(_ratio(rounds, name), 3),
            "p50_ms": round(statistics.median(r.percentile(0.50) for r in results), 2),
            "p95_ms": round(statistics.median(r.percentile(0.95) for r in results), 2),
            "p99_ms": round(statistics.median(r.percentile(0.99) for r in results), 2),
            "errors": sum(sum(r.errors.values()) for r in results),
        }
        for connections, rounds in report.items()
        for name, results in rounds.items()
    }


def _print(report: dict[int, Rounds], memory: dict[str, int]) -> None:
    print(f"{'':<22}{'calls/s':>9}{'x bare':>8}{'p50 ms':>8}{'p95 ms':>8}{'p99 ms':>8}{'errors':>8}")
    for name, figures in _figures(report).items():
        rate, ratio, p50, p95, p99, errors = figures.values()
        print(f"{name:<22}{rate:>9}{ratio:>8}{p50:>8}{p95:>8}{p99:>8}{errors:>8}")
    for rounds in report.values():
        for name, results in rounds.items():
            for fault, count in {f: c for r in results for f, c in r.errors.items()}.items():
                print(f"  {name}: {count} times {fault}")
    print("memory: " + ", ".join(f"{name} {megabytes} MB" for name, megabytes in memory.items()))


def _megabytes(pid: int) -> int:
    return round(psutil.Process(pid).memory_info().rss / 2**20)


if __name__ == "__main__":
    main()
