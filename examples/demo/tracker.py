"""A real Roundup issue tracker on loopback, for the demo and the tests.

    prepare(folder, port, "a password")
    seed(folder, 300)
    with Tracker(folder, port, "a password") as tracker:
        httpx.get(f"{tracker.base_url}issue", auth=...)

Never for anything but trying things out: passwords are hashed with few rounds, and nothing is limited.
"""

import argparse
import subprocess
import sys
import sysconfig
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from importlib import import_module
from pathlib import Path
from random import Random
from socketserver import ThreadingMixIn
from types import TracebackType
from typing import Any, Final, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

# Roundup has no types; all that is untyped stays in this module.
_date: Any = import_module("roundup.date")
_init: Any = import_module("roundup.init")
_instance: Any = import_module("roundup.instance")
_password: Any = import_module("roundup.password")

AGENT: Final = "toolgate-agent"
HOST: Final = "127.0.0.1"
_START_SECONDS: Final = 15.0


def prepare(folder: Path, port: int, password: str) -> None:
    """Make a tracker (classic template, SQLite) in `folder`, which must not exist, with the user `AGENT`.

    `password` is that of the agent; the administrator gets the same.
    """
    template = Path(sysconfig.get_path("data"), "share", "roundup", "templates", "classic")
    settings = {
        "RDBMS_BACKEND": "sqlite",
        "TRACKER_WEB": f"http://{HOST}:{port}/",
        "MAIL_DOMAIN": "example.com",
        "MAIL_HOST": "localhost",
        "MAIL_DEBUG": str(folder / "mail.mbox"),  # mail is written there and never sent
        "WEB_ENABLE_REST": "yes",
        "WEB_API_CALLS_PER_INTERVAL": "0",
        "WEB_API_FAILED_LOGIN_LIMIT": "0",
        # Every REST request checks the password anew: the default costs more than the request itself.
        "PASSWORD_PBKDF2_DEFAULT_ROUNDS": "1000",
    }
    _init.install(str(folder), str(template), settings=settings)
    tracker = _instance.open(str(folder))
    tracker.init(_password.Password(password, config=tracker.config), tx_Source="cli")
    with _database(folder) as database:
        database.user.create(
            username=AGENT,
            password=_password.Password(password, config=tracker.config),
            address=f"{AGENT}@example.com",
            realname="An agent behind Toolgate",
            roles="User",
        )


def serve(folder: Path, port: int) -> None:
    """Serve the tracker on loopback until the process is ended."""
    application = import_module("roundup.cgi.wsgi_handler").RequestDispatcher(str(folder))
    with make_server(HOST, port, application, _Server, _QuietHandler) as server:
        server.serve_forever()


def seed(folder: Path, tickets: int) -> None:
    """Put `tickets` believable tickets into the tracker, the same ones each time, about three hours apart."""
    chance = Random(7)  # noqa: S311 - the same tickets each time, not a secret
    opened = _FIRST_TICKET
    with _database(folder) as database:
        people = [_person(database, name) for name in _PEOPLE]
        for _ in range(tickets):
            opened += timedelta(minutes=chance.randint(1, 359))
            _seed_ticket(database, chance, people, opened)


class Tracker:
    """The prepared tracker in `folder`, served by a process of its own for as long as the block lasts."""

    def __init__(self, folder: Path, port: int, password: str) -> None:
        self._port = port
        if self._answers():
            raise RuntimeError(f"port {port} is taken")
        self.base_url = f"http://{HOST}:{port}/rest/data/"
        self.agent_credential = f"{AGENT}:{password}"
        command = [sys.executable, "-m", "examples.demo.tracker", "serve", str(folder.resolve()), str(port)]
        root = Path(__file__).parents[2]
        self._process = subprocess.Popen(command, cwd=root)
        self._wait()

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _wait(self) -> None:
        patience = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > patience:
                self.stop()
                raise RuntimeError(f"the tracker did not come up at {self.base_url}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        connection = HTTPConnection(HOST, self._port, timeout=_START_SECONDS)
        try:
            connection.request("GET", "/rest/")
            connection.getresponse()  # a refusal of the unknown visitor is an answer too
        except OSError:
            return False
        finally:
            connection.close()
        return True


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


@contextmanager
def _database(folder: Path) -> Generator[Any]:
    """Open the tracker's database as its administrator; what was done is kept when the block ends well."""
    database = _instance.open(str(folder)).open("admin")
    try:
        yield database
        database.commit()
    finally:
        database.close()


def _seed_ticket(
    database: Any,  # noqa: ANN401 - Roundup has no types
    chance: Random,
    people: list[str],
    opened: datetime,
) -> None:
    thing, problem, place = (chance.choice(words) for words in (_THINGS, _PROBLEMS, _PLACES))
    reporter = chance.choice(people)
    message = database.msg.create(
        content=f"{thing} {problem} {place}.\n\n{chance.choice(_DETAILS)}",
        author=reporter,
        date=_date.Date(opened.strftime("%Y-%m-%d.%H:%M:%S")),
    )
    ticket = database.issue.create(
        title=f"{thing} {problem} {place}",
        status=chance.choice(database.status.list()),
        priority=chance.choices(database.priority.list(), weights=[1, 3, 8, 5, 3])[0],
        assignedto=chance.choice([*people, None]),
        messages=[message],
    )
    # Roundup lets nobody say who opened a ticket, and when: it is now, and the administrator.
    moment = opened.strftime("%Y%m%d%H%M%S.000")
    database.sql(
        "update _issue set _creator = ?, _actor = ?, _creation = ?, _activity = ? where id = ?",
        (reporter, reporter, moment, moment, ticket),
    )


def _person(database: Any, name: str) -> str:  # noqa: ANN401 - Roundup has no types
    username = name.lower().replace(" ", ".")
    found: list[str] = database.user.stringFind(username=username)
    if found:
        return found[0]
    made: str = database.user.create(
        username=username, realname=name, address=f"{username}@example.com", roles="User"
    )
    return made


def main() -> None:
    """Serve a prepared tracker: `python -m examples.demo.tracker serve FOLDER PORT`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("port", type=int)
    chosen = parser.parse_args()
    serve(chosen.folder, chosen.port)


_FIRST_TICKET: Final = datetime(2026, 9, 1, 8, tzinfo=UTC)
_PEOPLE: Final = ("Amira Haddad", "Jonas Weber", "Priya Nair", "Sofia Rossi", "Tom Okafor")
_THINGS: Final = (
    "Invoice export", "VPN client", "Single sign-on", "Payroll report", "Printer on floor 3",
    "Badge reader", "Customer portal", "Nightly backup", "Shared calendar", "Expense form",
    "Password reset mail", "Warehouse scanner", "Video room", "Contract archive", "Phone queue",
)  # fmt: skip
_PROBLEMS: Final = (
    "fails with a timeout", "shows yesterday's data", "rejects valid input", "is very slow",
    "stops after an update", "loses the session", "prints empty pages", "sends everything twice",
    "cannot be opened", "asks for a licence", "shows the wrong currency", "ignores the time zone",
)  # fmt: skip
_PLACES: Final = (
    "in the Berlin office", "for new employees", "on Windows 11", "since the last release",
    "at the end of the month", "for external partners", "on the mobile app", "in the test system",
    "after a change of password", "for the finance team", "over the guest network", "in Firefox",
)  # fmt: skip
_DETAILS: Final = (
    "It worked until last week. Nothing was changed on our side.",
    "About one time in five. Trying again helps for some minutes.",
    "Two colleagues see the same. A screenshot is with the service desk.",
    "We need it for the closing on Friday, so please treat it as urgent.",
    "Not blocking: there is a way around it, but it costs us half an hour a day.",
    "The log shows nothing unusual. We can give access to a test account.",
)  # fmt: skip

if __name__ == "__main__":
    main()
