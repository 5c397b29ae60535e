"""`python -m bench.parquet FILE DIR`: what an export costs, and every named query on it beside SQLite.

FILE is a ledger of `python -m bench.ledger build`. The export is made by a process of its own, whose time
and memory are told for a million entries; then it is verified. Each query is asked of both in turns, the
fastest of three: seconds on SQLite, seconds on the export, and the one as a multiple of the other.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from toolgate.backends.audit_queries import Filter, Found, NamedQuery, ask
from toolgate.backends.audit_questions import QUERIES
from toolgate.backends.ledger_database import LedgerDatabase, SqliteFile
from toolgate.backends.parquet_files import ParquetExport, read_manifest

_WORK = """
import sys
from pathlib import Path
from toolgate.backends.export_parquet import export_parquet
from toolgate.backends.ledger_database import SqliteFile
from toolgate.backends.parquet_verify import verify_parquet
what, file, directory = sys.argv[1:]
if what == "export":
    export_parquet(SqliteFile(Path(file)).engine(), Path(directory))
else:
    report = verify_parquet(Path(directory), keys=[], checkpoints=[])
    assert not report.faults, report.faults
"""
_MOST = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    shutil.rmtree(options.directory, ignore_errors=True)
    report = {what: _worked(what, options.file, options.directory) for what in ("export", "verify")}
    size = read_manifest(options.directory).size
    bytes_ = sum(file.stat().st_size for file in options.directory.rglob("*") if file.is_file())
    report["size"] = {"entries": size, "bytes an entry": bytes_ / size}
    for figures in (report["export"], report["verify"]):
        figures["seconds a million"] = figures["seconds"] / size * 1_000_000
        figures["on the processor a million"] = figures["on the processor"] / size * 1_000_000
    report |= {query.name: _asked(query, options.file, options.directory) for query in QUERIES}
    if options.json:
        print(json.dumps(report, indent=2))
        return
    for part, figures in report.items():
        told = "  ".join(f"{name} {value:,.3f}" for name, value in figures.items())
        print(f"{part:<22}{told}")


def _worked(what: str, file: Path, directory: Path) -> dict[str, float]:
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", _WORK, what, file, directory])
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{what} failed")
    return {
        "seconds": time.perf_counter() - begun,
        "on the processor": used.ru_utime + used.ru_stime,
        "peak MB": used.ru_maxrss / 1024,
    }


def _asked(query: NamedQuery, file: Path, directory: Path) -> dict[str, float]:
    asked = _needed(query, file)
    times: dict[str, list[float]] = {"SQLite": [], "export": []}
    for _ in range(3):
        lite, lasted = _timed(SqliteFile(file), query, asked)
        times["SQLite"].append(lasted)
        found, lasted = _timed(ParquetExport(directory), query, asked)
        times["export"].append(lasted)
        if len(found.rows) != len(lite.rows):
            raise SystemExit(f"{query.name} has another answer in the export")
    best = {name: min(taken) for name, taken in times.items()}
    return best | {"export / SQLite": best["export"] / best["SQLite"]}


def _timed(
    database: LedgerDatabase, query: NamedQuery, asked: dict[Filter, str | int]
) -> tuple[Found, float]:
    begun = time.perf_counter()
    found = ask(database, query, asked, most=_MOST)
    return found, time.perf_counter() - begun


def _needed(query: NamedQuery, file: Path) -> dict[Filter, str | int]:
    with SqliteFile(file).engine().connect() as connection:
        call, run = connection.exec_driver_sql(
            "SELECT call_id, run FROM ledger_entry WHERE run <> '' AND kind = 'intent' LIMIT 1 OFFSET 200"
        ).one()
    needed: dict[Filter, str | int] = {"value": "17", "hours": "08-18", "run": run, "call": call}
    return {name: value for name, value in needed.items() if name in query.needed}


if __name__ == "__main__":
    main()
