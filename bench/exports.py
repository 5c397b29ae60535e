"""`python -m bench.exports FILE`: what it costs to write a large ledger for others, and to verify it.

FILE is a ledger of `python -m bench.ledger build FILE --calls 530000` (a million entries). Each form is
written by a process of its own, whose seconds, processor seconds and largest resident size are told, beside a
process that only reads all rows through plain `sqlite3`. What is written is removed again.
"""

import argparse
import json
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from toolgate.backends.audit_dialects import DIALECTS
from toolgate.backends.audit_queries import ask
from toolgate.backends.audit_questions import BY_NAME
from toolgate.backends.export_bundle import Answer, Beside, write_bundle
from toolgate.backends.export_files import replaced
from toolgate.backends.export_ocsf import Wanted, export_ocsf
from toolgate.backends.export_tiles import export_tiles
from toolgate.backends.ledger_database import SqliteFile
from toolgate.backends.sqlite_files import reader
from toolgate.verifier import read_keys, read_note, verify_ledger, verify_tiles

ROWS = 1000
BASELINE = "baseline: read all rows"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report = measure(options.file)
    if options.json:
        print(json.dumps(report, indent=2))
        return
    print(f"{'':<34}{'s':>8}{'cpu s':>8}{'MB':>8}{'x baseline':>12}")
    for name, figures in report.items():
        told = (figures["seconds"], figures["processor seconds"], figures["MB"], figures["ratio"])
        print(f"{name:<34}{told[0]:>8.1f}{told[1]:>8.1f}{told[2]:>8.0f}{told[3]:>12.1f}")


def measure(file: Path) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory(dir=file.parent) as name:
        out = Path(name)
        work: dict[str, Callable[[], object]] = {
            BASELINE: partial(_read, file),
            "tiles": partial(_tiles, file, out / "tiles"),
            "tiles, nothing new": partial(_tiles, file, out / "tiles"),
            "OCSF": partial(_ocsf, file, out / "events.jsonl"),
            f"bundle of {ROWS} calls": partial(_bundle, file, out / "bundle.zip"),
            "verify the database": partial(_verify, file),
            "verify the tiles": partial(_verify_tiles, file, out / "tiles"),
        }
        found = {name: _in_a_child(job) for name, job in work.items()}
        shutil.rmtree(out / "tiles")
    for figures in found.values():
        figures["ratio"] = figures["seconds"] / found[BASELINE]["seconds"]
    return found


def _in_a_child(work: Callable[[], object]) -> dict[str, float]:
    """Do it in a process of its own, which has nothing in memory but what is imported here."""
    sys.stdout.flush()
    begun = time.perf_counter()
    child = os.fork()
    if child == 0:
        work()  # an error ends the child with its traceback, and then its parent
        os._exit(0)
    _, status, used = os.wait4(child, 0)
    if status:
        raise SystemExit("it could not be measured")
    return {
        "seconds": time.perf_counter() - begun,
        "processor seconds": used.ru_utime + used.ru_stime,
        "MB": used.ru_maxrss / 1024,
    }


def _quietly(done: int, total: int) -> None:
    """Nobody looks on."""


def _read(file: Path) -> None:
    connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    for _ in connection.execute("SELECT idx, leaf, body FROM ledger_entry ORDER BY idx"):
        pass
    connection.close()


def _tiles(file: Path, folder: Path) -> None:
    export_tiles(reader(file), folder, _quietly)


def _ocsf(file: Path, out: Path) -> None:
    with replaced(out) as opened:
        export_ocsf(reader(file), opened, Wanted(), _quietly)


def _bundle(file: Path, out: Path) -> None:
    named = BY_NAME["calls"]
    found = ask(SqliteFile(file), named, {}, most=ROWS)
    answer = Answer(
        name=named.name,
        question=named.question,
        sql=named.statement({}, DIALECTS["sqlite"]),
        filters={},
        found=found,
    )
    keys = [file.with_suffix(".vkey").read_text("utf-8").strip()]
    with replaced(out) as opened:
        write_bundle(reader(file), opened, answer, Beside(keys=keys), _quietly)


def _verify(file: Path) -> None:
    keys = read_keys(f"{file.with_suffix('.vkey')}")
    kept = [("kept", read_note(f"{file.with_suffix('.checkpoint')}"))]
    _demand(verify_ledger(file, keys=keys, checkpoints=kept).verdict)


def _verify_tiles(file: Path, folder: Path) -> None:
    keys = read_keys(f"{file.with_suffix('.vkey')}")
    kept = [("kept", read_note(f"{file.with_suffix('.checkpoint')}"))]
    _demand(verify_tiles(folder, keys=keys, checkpoints=kept).verdict)


def _demand(verdict: str) -> None:
    if verdict != "verified":
        raise RuntimeError(f"it is {verdict}")


if __name__ == "__main__":
    main()
