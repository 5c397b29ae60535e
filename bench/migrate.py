"""`python -m bench.migrate FILE --to URL`: what it costs to move a ledger to PostgreSQL, and to verify it.

FILE is one of `python -m bench.ledger build`; it is copied, and the database at URL is made anew. Beside the
move stands a bare COPY of the same entries and values, read from the file in the same way, into tables
without indexes; beside each verification one bare pass of SHA-256 over all bodies. Each step runs in a
process of its own, whose peak of memory is told.
"""

import argparse
import json
import multiprocessing
import resource
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
from psycopg import sql
from pydantic import SecretStr

from toolgate.backends.checkpoints import Checkpoints
from toolgate.backends.ledger_move import move
from toolgate.backends.postgres_source import verify_postgres
from toolgate.verifier import read_keys, read_note, verify_ledger


class Published(Checkpoints):
    """Those of a ledger whose private key nobody has kept."""

    def __init__(self, origin: str) -> None:
        self._origin = origin

    @property
    def origin(self) -> str:
        return self._origin

    def loss(self, connection: object) -> None:
        """Nothing was published beside the database."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--to", required=True, help="the address of a server; the database is made anew")
    options = parser.parse_args()
    steps: dict[str, Callable[[Path, str], int]] = {
        "bare COPY of entries and values": bare_copy,
        "move": moved,
        "bare SHA-256 over all bodies": bare_pass,
        "verify the file": verified_file,
        "verify PostgreSQL": verified_database,
    }
    with TemporaryDirectory(prefix="toolgate-bench-", dir=options.file.parent) as folder:
        copy = Path(shutil.copy(options.file, folder))
        for end in (".vkey", ".checkpoint"):
            shutil.copy(options.file.with_suffix(end), folder)
        figures = {name: _measured(step, copy, options.to) for name, step in steps.items()}
    print(json.dumps(figures, indent=2))


def bare_copy(file: Path, url: str) -> int:
    _make_anew(url)
    with closing(sqlite3.connect(file)) as source, psycopg.connect(url) as target:
        rows = 0
        for table in ("ledger_entry", "payload"):
            columns = [(row[1], row[2]) for row in source.execute(f"PRAGMA table_info({table})")]
            types = [_type(kind) for _, kind in columns]
            made = ", ".join(f'"{name}" {kind}' for (name, _), kind in zip(columns, types, strict=True))
            target.execute(f"CREATE TABLE {table} ({made})".encode())
            statement = sql.SQL("COPY {} FROM STDIN (FORMAT binary)").format(sql.Identifier(table))
            with target.cursor().copy(statement) as copy:
                copy.set_types(types)
                for row in source.execute(f"SELECT * FROM {table}"):  # noqa: S608 - ours
                    copy.write_row(row)
                    rows += 1
    return rows


def moved(file: Path, url: str) -> int:
    _make_anew(url)
    origin = file.with_suffix(".vkey").read_text("ascii").partition("+")[0]
    return move(file, SecretStr(url), Published(origin), lambda _done, _all: None)


def bare_pass(file: Path, url: str) -> int:
    del url
    with closing(sqlite3.connect(file)) as source:
        return sum(
            len(sha256(body).digest()) // 32 for (body,) in source.execute("SELECT body FROM ledger_entry")
        )


def verified_file(file: Path, url: str) -> int:
    del url
    return _entries(verify_ledger(file, **_given(file)))


def verified_database(file: Path, url: str) -> int:
    return _entries(verify_postgres(SecretStr(url), **_given(file)))


def _given(file: Path) -> dict[str, Any]:
    checkpoint = file.with_suffix(".checkpoint")
    return {
        "keys": read_keys(f"{file.with_suffix('.vkey')}"),
        "checkpoints": [("kept", read_note(f"{checkpoint}"))],
    }


def _entries(report: Any) -> int:  # noqa: ANN401 - a Report
    assert report.verdict == "verified", report.faults
    entries: int = report.entries
    return entries


def _type(kind: str) -> str:
    return {"INTEGER": "int8", "BIGINT": "int8", "BLOB": "bytea"}.get(kind.upper(), "text")


def _make_anew(url: str) -> None:
    server, _, name = url.rpartition("/")
    with psycopg.connect(f"{server}/postgres", autocommit=True) as administrator:
        database = sql.Identifier(name)
        administrator.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(database))
        administrator.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(database)
        )


def _measured(step: Callable[[Path, str], int], file: Path, url: str) -> dict[str, float]:
    with multiprocessing.get_context("spawn").Pool(1) as process:
        return process.apply(_run, (step, file, url))


def _run(step: Callable[[Path, str], int], file: Path, url: str) -> dict[str, float]:
    begun, used = time.perf_counter(), time.process_time()
    count = step(file, url)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds, processor = time.perf_counter() - begun, time.process_time() - used
    return {"count": count, "seconds": round(seconds, 1), "processor": round(processor, 1), "MB": round(peak)}


if __name__ == "__main__":
    main()
