"""`python -m bench.ledger build FILE`, then `measure FILE`: a million calls, and what asking costs.

It is built by the product's own spelling and batches, in large transactions without an `fsync` each; its
clock runs through a year. Measured are every named query (the fastest of three runs), the proofs (on the wall
and on the processor), the root from a new connection and the bytes of a call. One bare pass over all bodies
stands beside the queries.
"""

import argparse
import json
import random
import sqlite3
import statistics
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

from bench.ledger_built import BEGIN, SPAN, build
from toolgate.backends.audit_queries import Filter, ask
from toolgate.backends.audit_questions import QUERIES
from toolgate.backends.checkpoints import StoredHashes
from toolgate.backends.ledger_database import SqliteFile
from toolgate.backends.ledger_entries import micros
from toolgate.backends.sql_connection import SqliteConnection
from toolgate.backends.sqlite_files import reader
from toolgate.core.merkle import consistency_proof, inclusion_proof, root_at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("build", "measure"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--leases", action="store_true", help="every call that acts borrows a credential")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.what == "build":
        build(options.file, options.calls, leases=options.leases)
        return
    report = measure(options.file)
    if options.json:
        print(json.dumps(report, indent=2))
        return
    for part, figures in report.items():
        print(f"\n{part}")
        for name, value in figures.items():
            print(f"    {name:<44}{value:>14,.3f}")


def measure(file: Path) -> dict[str, dict[str, float]]:
    cold = _cold(file)
    with reader(file).connect() as connection:
        count = "SELECT count(*) FROM audit_calls_v1"
        calls: int = connection.exec_driver_sql(count).scalar_one()
    return {
        "size": {"calls": calls, "bytes a call": file.stat().st_size / calls},
        "root (ms)": cold,
        "proofs (ms)": _proofs(file),
        "queries (s)": dict(_queries(file)),
    }


def _cold(file: Path) -> dict[str, float]:
    """The root from a new connection: what the gate does at its start."""
    times: list[float] = []
    for _ in range(20):
        begun = time.perf_counter()
        with _open(file) as connection:
            size = connection.execute("SELECT size FROM ledger_tip").fetchone()[0]
            root_at(size, StoredHashes(connection))
        times.append(time.perf_counter() - begun)
    return {"first": times[0] * 1000, "p50": statistics.median(times) * 1000}


def _proofs(file: Path) -> dict[str, float]:
    chance = random.Random(7)  # noqa: S311
    with _open(file) as connection:
        size: int = connection.execute("SELECT size FROM ledger_tip").fetchone()[0]
        hashes = StoredHashes(connection)
        inclusion = _times(lambda: inclusion_proof(chance.randrange(size), size, hashes))
        consistency = _times(lambda: consistency_proof(chance.randrange(1, size), size, hashes))
    return {
        **{f"inclusion {name}": value for name, value in inclusion.items()},
        **{f"consistency {name}": value for name, value in consistency.items()},
    }


def _times(work: Callable[[], object], count: int = 1000) -> dict[str, float]:
    wall: list[float] = []
    processor: list[float] = []
    for _ in range(count):
        begun, used = time.perf_counter(), time.thread_time()
        work()
        wall.append((time.perf_counter() - begun) * 1000)
        processor.append((time.thread_time() - used) * 1000)
    figures: dict[str, float] = {}
    for clock, taken in (("", wall), (" on the processor", processor)):
        ranks = statistics.quantiles(taken, n=100)
        figures |= {f"p50{clock}": ranks[49], f"p99{clock}": ranks[98]}
    return figures


def _queries(file: Path) -> Iterator[tuple[str, float]]:
    yield "baseline: one pass over all bodies", _fastest(lambda: _pass(file))
    with reader(file).connect() as connection:
        sample = connection.exec_driver_sql(
            "SELECT tool, subject, run_name, call_id FROM audit_calls_v1 "
            "WHERE run <> '' AND kind = 'intent' ORDER BY at LIMIT 1 OFFSET 2000"
        ).one()
    middle = BEGIN + SPAN / 2
    narrow: dict[str, dict[Filter, str | int]] = {
        "": {},
        "a tool": {"tool": sample.tool},
        "a subject": {"subject": sample.subject},
        "a run": {"run": sample.run_name},
        "a call": {"call": sample.call_id},
        "a week": {"since": micros(middle), "until": micros(middle + timedelta(days=7))},
    }
    beside: dict[Filter, str | int] = {"value": "17", "hours": "08-18"}
    for query in QUERIES:
        for words, filters in narrow.items():
            asked: dict[Filter, str | int] = dict(filters)
            asked.update({name: value for name, value in beside.items() if name in query.needed})
            if query.fault_in(asked) is None:
                yield (
                    f"{query.name} {words}",
                    _fastest(partial(ask, SqliteFile(file), query, asked, most=100)),
                )


def _pass(file: Path) -> int:
    with _open(file) as connection:
        length: int = connection.execute("SELECT sum(length(body)) FROM ledger_entry").fetchone()[0]
        return length


def _fastest(work: Callable[[], object]) -> float:
    """The fastest of three; of one, where that is slow."""
    fastest = float("inf")
    for _ in range(3):
        begun = time.perf_counter()
        work()
        fastest = min(fastest, time.perf_counter() - begun)
        if fastest > 20:
            break
    return fastest


@contextmanager
def _open(file: Path) -> Generator[SqliteConnection]:
    connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True, factory=SqliteConnection)
    try:
        yield connection
    finally:
        connection.close()


if __name__ == "__main__":
    main()
