"""`python -m bench.drivers`: one group commit of the ledger on PostgreSQL, by driver and by way of speaking.

A commit takes the tip's row lock, looks at a claim for each job, makes a claim (a call is opened) or settles
one (a call is closed), inserts one entry for what is opened and two for what is closed with their payloads,
moves the tip and commits, durably. What differs is how many round trips that is, and who makes them. Beside
the rates stand the milliseconds of one commit and what a job costs the client's processor.
"""

import argparse
import json
import os
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import psycopg

from bench.driver_others import Asyncpg, AsyncpgBatched, AsyncpgFunction, Libpq
from bench.driver_ways import (
    Psycopg,
    PsycopgBatched,
    PsycopgFlushAfter,
    PsycopgFunction,
    PsycopgLateWrites,
    PsycopgMany,
    PsycopgTwoTrips,
    Way,
)
from bench.driver_work import TABLES, Jobs
from tests.postgresql import OWNER, Cluster, cluster

WAYS: Final[dict[str, Callable[[str], Way]]] = {
    "psycopg, each statement by itself": Psycopg,
    "psycopg, reads by themselves, writes late": PsycopgLateWrites,
    "psycopg, two round trips": PsycopgTwoTrips,
    "libpq by psycopg.pq, two round trips": Libpq,
    "psycopg, two round trips, batched": PsycopgBatched,
    "psycopg, two round trips, executemany": PsycopgMany,
    "psycopg, two trips, flush after the lock": PsycopgFlushAfter,
    "psycopg, one function": PsycopgFunction,
    "asyncpg, each statement by itself": Asyncpg,
    "asyncpg, batched": AsyncpgBatched,
    "asyncpg, one function": AsyncpgFunction,
}


@dataclass(frozen=True)
class Figures:
    """Of one way."""

    commits: float
    jobs: float
    p50: float
    p99: float
    client: float
    """Microseconds of the client's processor a job."""


def busy(stop: threading.Event) -> None:
    """Be what a gate's event loop is beside its writer: a millisecond of Python, then one of waiting."""
    while not stop.is_set():
        end = time.perf_counter() + 0.001
        while time.perf_counter() < end:
            json.loads(json.dumps(_SOMETHING))
        time.sleep(0.001)


_SOMETHING: Final = {str(n): [n, "text", {"deep": n}] for n in range(40)}


def writer(
    way: Callable[[str], Way], url: str, size: int, seconds: float, number: int, *, beside: bool
) -> Figures:
    """Commit for so long, one group after another."""
    made = way(url)
    stop = threading.Event()
    if beside:
        threading.Thread(target=busy, args=(stop,)).start()
    before: list[str] = []
    times: list[float] = []
    end = time.perf_counter() + seconds + 0.3
    warm = time.perf_counter() + 0.3
    begun = used = 0.0
    count = 0
    while (at := time.perf_counter()) < end:
        if not begun and at >= warm:
            times, begun, used = [], at, time.thread_time()
        count += 1
        opens = size // 2 if size > 1 else 0 if before else 1
        calls = [f"c{number}-{count}-{n}-{os.getpid()}-{size}-{way.__name__}" for n in range(opens)]
        jobs = Jobs(calls, before)
        made.commit(jobs)
        before = calls
        times.append((time.perf_counter() - at) * 1000)
    passed, used = time.perf_counter() - begun, time.thread_time() - used
    stop.set()
    made.close()
    ranks = statistics.quantiles(times, n=100)
    done = len(times) * size
    return Figures(len(times) / passed, done / passed, ranks[49], ranks[98], used * 1e6 / done)


def measure(
    server: Cluster, way: str, size: int, seconds: float, writers: int, *, tcp: bool, beside: bool
) -> Figures:
    """Let several writers commit at once, each in a process of its own, to one fresh database."""
    database = server.create()
    with psycopg.connect(server.url(OWNER, database), autocommit=True) as owner:
        owner.execute(TABLES.encode())
    url = server.url(OWNER, database, tcp=tcp)
    found: list[Figures] = []
    if writers == 1:
        found.append(writer(WAYS[way], url, size, seconds, 0, beside=beside))
    else:
        found = _processes(
            lambda number: writer(WAYS[way], url, size, seconds, number, beside=beside), writers
        )
    server.drop(database)
    return Figures(
        sum(each.commits for each in found),
        sum(each.jobs for each in found),
        statistics.median(each.p50 for each in found),
        max(each.p99 for each in found),
        statistics.mean(each.client for each in found),
    )


def _processes(work: Callable[[int], Figures], count: int) -> list[Figures]:
    ends: list[int] = []
    for number in range(count):
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.write(writing, json.dumps(vars(work(number))).encode())
            os._exit(0)
        os.close(writing)
        ends.append(reading)
    found: list[Figures] = []
    for end in ends:
        with os.fdopen(end, "rb") as file:
            found.append(Figures(**json.loads(file.read())))
    for _ in ends:
        os.wait()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--writers", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--ways", default="", help="only those whose name has this")
    parser.add_argument("--tcp", action="store_true")
    parser.add_argument("--busy", action="store_true", help="with an event loop's work beside each writer")
    options = parser.parse_args()
    with cluster() as server:
        print(f"{'':<46}{'writers':>8}{'jobs':>5}{'commits/s':>11}{'jobs/s':>9}", end="")
        print(f"{'p50 ms':>8}{'p99 ms':>8}{'us/job':>8}")
        for writers in options.writers:
            for size in options.sizes:
                for way in WAYS:
                    if options.ways not in way:
                        continue
                    figures = measure(
                        server, way, size, options.seconds, writers, tcp=options.tcp, beside=options.busy
                    )
                    print(
                        f"{way:<46}{writers:>8}{size:>5}{figures.commits:>11.0f}{figures.jobs:>9.0f}"
                        f"{figures.p50:>8.2f}{figures.p99:>8.2f}{figures.client:>8.0f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
