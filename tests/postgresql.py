"""A real PostgreSQL cluster that keeps its word (`fsync` is on), and can be crashed, cut off and failed over.

The programs are those in `$POSTGRES_BIN`, else a wheel's. Two roles stand ready: `toolgate_owner`, who makes
databases and their tables, and `toolgate_writer`, both with passwords (SCRAM-SHA-256).
"""

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal
from urllib.parse import quote

import psycopg

from examples.demo.waiting import free_port
from examples.vault.database import User, ordinary_user, server_programs

OWNER, WRITER = "toolgate_owner", "toolgate_writer"
_ADMIN: Final = "postgres"
_REPLICA: Final = "replica"
_SECONDS: Final = 60.0
_PAUSE: Final = 0.02
_ACCESS: Final = """
local all         postgres                scram-sha-256
local all         all                     scram-sha-256
host  all         all        127.0.0.1/32 scram-sha-256
host  replication replica    127.0.0.1/32 scram-sha-256
"""
_SETTINGS: Final = """
listen_addresses = '127.0.0.1'
max_connections = 60
shared_buffers = 64MB
max_wal_size = 512MB
wal_keep_size = 256MB
log_min_messages = warning
logging_collector = off
cluster_name = 'toolgate-tests'
"""


@dataclass(eq=False)
class Cluster:
    """One server and its data; it can be stopped, crashed and started again any number of times.

    Args:
        folder: holds the data (`data`), the socket and the log; PostgreSQL's user owns it.
        passwords: by role.
    """

    folder: Path
    passwords: dict[str, str] = field(repr=False)
    port: int
    programs: Path
    user: User
    _process: subprocess.Popen[bytes] | None = None

    def url(self, role: str = WRITER, database: str = "postgres", *, tcp: bool = False, port: int = 0) -> str:
        """Give the address for a role: over the socket, over TCP, or over a proxy's port."""
        who = f"{role}:{quote(self.passwords[role])}"
        if tcp or port:
            return f"postgresql://{who}@127.0.0.1:{port or self.port}/{database}"
        return f"postgresql://{who}@/{database}?host={quote(str(self.folder), safe='')}&port={self.port}"

    def ask(self, statement: str, *values: object, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Ask as the administrator, each time in a session of its own."""
        address = self.url(_ADMIN, database)
        with psycopg.connect(address, autocommit=True, connect_timeout=10) as administrator:
            found = administrator.execute(statement.encode(), values or None)
            return found.fetchall() if found.description else []

    def create(self, template: str = "template0") -> str:
        """Make a database of its own for the owner, and give its name."""
        name = f"toolgate_{secrets.token_hex(6)}"
        self.ask(f"CREATE DATABASE {name} OWNER {OWNER} TEMPLATE {template}")
        return name

    def drop(self, database: str) -> None:
        """Remove a database, whoever is still connected to it."""
        self.ask(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")

    def start(self, *, wait: bool = True) -> None:
        """Start the server; after a crash it recovers from its WAL first."""
        command: list[str | Path] = [
            self.programs / "postgres",
            "-D",
            self.folder / "data",
            "-p",
            str(self.port),
        ]
        deadline = time.monotonic() + _SECONDS
        while True:
            with (self.folder / "log").open("ab") as log:
                self._process = self._popen(command, log)
            if not wait or self._answers(deadline):
                return
            # A crashed postmaster's children may hold its shared memory for another moment.
            if time.monotonic() > deadline:
                raise TimeoutError(f"PostgreSQL does not start: {self.log()[-2000:]}")
            time.sleep(_PAUSE)

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop it: `fast` ends sessions and writes a checkpoint, `immediate` crashes it in an orderly way."""
        self._end(signal.SIGINT if mode == "fast" else signal.SIGQUIT)

    def kill(self) -> None:
        """Kill the postmaster; its children notice, and end without a word."""
        self._end(signal.SIGKILL)

    def restart(self, how: Literal["fast", "immediate", "kill"] = "fast") -> None:
        """Stop or kill it, and start it again."""
        if how == "kill":
            self.kill()
        else:
            self.stop(how)
        self.start()

    def is_running(self) -> bool:
        """Whether the postmaster runs."""
        return self._process is not None and self._process.poll() is None

    def cut_off(self, database: str) -> int:
        """End every session in a database, as an administrator does; give how many there were."""
        ended = self.ask(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", database
        )
        return len(ended)

    def log(self) -> str:
        """Give what the server has said."""
        return (self.folder / "log").read_text("utf-8", "replace")

    def replay_lag(self) -> int:
        """Give how many bytes of this server's WAL its standby has not on its disk; -1 without a standby."""
        found = self.ask("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn) FROM pg_stat_replication")
        return int(found[0][0]) if found else -1

    def promote(self) -> None:
        """Make a standby the primary."""
        (promoted,) = self.ask("SELECT pg_promote(true, 60)")
        if promoted != (True,):
            raise TimeoutError("the standby was not promoted")

    def execute(self, program: str, *arguments: str | Path, **environment: str) -> None:
        """Run one of PostgreSQL's programs as its user."""
        done = subprocess.run(
            [self.programs / program, *arguments],
            cwd=self.folder,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
            user=self.user.id,
            group=self.user.group,
            extra_groups=self.user.groups,
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr}")

    def _popen(self, command: Sequence[str | Path], log: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401 - a file
        return subprocess.Popen(
            command,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=self.user.id,
            group=self.user.group,
            extra_groups=self.user.groups,
        )

    def _answers(self, deadline: float) -> bool:
        while self.is_running() and time.monotonic() < deadline:
            try:
                self.ask("SELECT 1")
            except psycopg.OperationalError:
                time.sleep(_PAUSE)
            else:
                return True
        return False

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(_SECONDS)


@contextmanager
def cluster(**settings: str) -> Generator[Cluster]:
    """Start a cluster in a folder of its own; crash and remove it at the end."""
    with TemporaryDirectory(prefix="toolgate-pg-") as folder:
        made = _initialised(Path(folder), settings)
        with _started(made):
            for role, attributes in ((OWNER, "CREATEDB"), (WRITER, ""), (_REPLICA, "REPLICATION")):
                made.ask(f"CREATE ROLE {role} LOGIN {attributes} PASSWORD '{made.passwords[role]}'")
            yield made


@contextmanager
def standby(primary: Cluster) -> Generator[Cluster]:
    """Start a standby that streams from `primary`, and that a commit there waits for (`synchronous`)."""
    with TemporaryDirectory(prefix="toolgate-pg-") as folder:
        second = Cluster(Path(folder), primary.passwords, free_port(), server_programs(), ordinary_user())
        second.user.own(second.folder)
        (second.folder / "log").touch()
        address = f"{primary.url(_REPLICA, tcp=True)}?application_name=standby"
        data = second.folder / "data"
        second.execute("pg_basebackup", "-d", address, "-D", data, "-R", "-X", "stream", "-c", "fast")
        with (data / "postgresql.auto.conf").open("a") as settings:
            settings.write(f"unix_socket_directories = '{second.folder}'\nhot_standby = on\n")
        with _started(second):
            primary.ask("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
            primary.ask("SELECT pg_reload_conf()")
            yield second


@contextmanager
def _started(made: Cluster) -> Generator[None]:
    try:
        made.start()
        yield
    finally:
        made.stop("immediate")


def _initialised(folder: Path, settings: dict[str, str]) -> Cluster:
    passwords = {role: secrets.token_urlsafe(18) for role in (_ADMIN, OWNER, WRITER, _REPLICA)}
    made = Cluster(folder, passwords, free_port(), server_programs(), ordinary_user())
    made.user.own(folder)
    given = folder / "password"
    given.touch(0o600)
    given.write_text(passwords[_ADMIN], "utf-8")
    made.user.own(given)
    data = folder / "data"
    words = [
        "-U",
        _ADMIN,
        "-A",
        "scram-sha-256",
        f"--pwfile={given}",
        "-E",
        "UTF8",
        "--locale=C",
        "--no-sync",
    ]
    made.execute("initdb", "-D", data, *words)
    given.unlink()
    (data / "pg_hba.conf").write_text(_ACCESS, "utf-8")
    said = "".join(f"{name} = '{value}'\n" for name, value in settings.items())
    with (data / "postgresql.conf").open("a") as file:
        file.write(f"{_SETTINGS}unix_socket_directories = '{folder}'\n{said}")
    return made
