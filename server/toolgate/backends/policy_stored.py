"""Reads which versions of the policy were activated, and what is in them; never in the writer's way."""

import hashlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

import orjson
from sqlalchemy import (
    Connection,
    Executable,
    RowMapping,
    bindparam,
    desc,
    func,
    inspect,
    select,
)
from sqlalchemy.exc import SQLAlchemyError

from toolgate.backends.audit_queries import with_views
from toolgate.backends.ledger_database import LedgerDatabase
from toolgate.backends.ledger_entries import moment
from toolgate.backends.sql_connection import cause
from toolgate.backends.sql_tables import ACTIVATION, ENTRY, VERSION, Prepared, of_kind
from toolgate.core.errors import LedgerUnavailable, NothingRecorded

SHORT: Final = 12
"""So many digits of a digest are shown to people."""
_LEAST: Final = 4
_SAID: Final = (
    select(
        ACTIVATION.c.entry,
        ACTIVATION.c.digest,
        ACTIVATION.c.mode,
        ENTRY.c.kind,
        ENTRY.c.status,
        ENTRY.c.at,
        ENTRY.c.body,
    )
    .join_from(ACTIVATION, ENTRY, ENTRY.c.idx == ACTIVATION.c.entry, isouter=True)
    .order_by(desc(ACTIVATION.c.entry))
)
"""Activations, newest first, with what the ledger says of them."""
_ENFORCED: Final = _SAID.where(ACTIVATION.c.mode == "enforced").limit(1)
_SHADOW: Final = _SAID.where(ACTIVATION.c.mode != "enforced").limit(1)
_FILES: Final = select(VERSION.c.files).where(VERSION.c.digest == bindparam("digest"))
_LAST_SAID: Final = select(func.max(of_kind("policy").c.idx).label("entry"))
"""The newest entry about a version."""
LAST_ENFORCED: Final = Prepared(_ENFORCED)
LAST_SHADOW: Final = Prepared(_SHADOW)
FILES: Final = Prepared(_FILES)
LAST_SAID: Final = Prepared(_LAST_SAID)
_NEWEST: Final = select(func.max(ACTIVATION.c.entry).label("entry"))
_NAMED: Final = select(VERSION.c.digest).where(VERSION.c.digest.startswith(bindparam("begins")))
_BEFORE: Final = select(ACTIVATION.c.previous).where(ACTIVATION.c.entry == bindparam("entry"))
_VERSIONS: Final = select(VERSION.c.digest, VERSION.c.at).order_by(desc(VERSION.c.at))
_MODES: Final = {
    "activated": "enforced",
    "rolled_back": "enforced",
    "shadowed": "shadow",
    "shadow_ended": "shadow_ended",
}


@dataclass(frozen=True, kw_only=True)
class Activation:
    """A version's place, and the entry that gave it."""

    entry: int
    digest: str
    at: datetime
    override: bool
    """It was activated although its cases failed."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Which versions have been activated: in force, and beside it in shadow."""

    newest: int | None = None
    """The entry of the newest activation of all."""
    enforced: Activation | None = None
    shadow: Activation | None = None


@dataclass(frozen=True, kw_only=True)
class Change:
    """One entry about a version."""

    entry: int
    at: datetime
    status: str
    """`activated`, `rolled_back`, `shadowed` or `shadow_ended`."""
    by_whom: str
    """The person, or a pseudonym where the name was erased."""
    override: bool
    because: str | None
    """The reason for an override."""
    cases: int | None
    """How many cases passed."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version that was activated once."""

    digest: str
    stored_at: datetime
    changes: tuple[Change, ...]
    """What became of it, newest first."""


class Named(Protocol):
    """A row whose values have names, of whichever driver."""

    def __getitem__(self, name: str, /) -> Any: ...  # noqa: ANN401 - what a column has


class StoredPolicies:
    """Questions to the ledger's `database`; each opens and closes a read-only connection.

    All raise `LedgerUnavailable` where it cannot be read, or does not say what the ledger says.
    """

    def __init__(self, database: LedgerDatabase) -> None:
        self._database = database

    def newest(self) -> int | None:
        """Give the entry of the newest activation: one step down an index."""
        if not self._database.exists():
            return None
        with self._reading() as connection:
            newest: int | None = _rows(connection, _NEWEST)[0]["entry"]
            return newest

    def standing(self) -> Standing:
        """Give which versions have been activated; none in a ledger that is not there yet, or is older."""
        if not self._database.exists():
            return Standing()
        with self._reading() as connection:
            if not inspect(connection).has_table(ACTIVATION.name):
                return Standing()
            enforced, shadow = _rows(connection, _ENFORCED), _rows(connection, _SHADOW)
            said: int | None = _rows(connection, _LAST_SAID)[0]["entry"]
            return standing_of(next(iter(enforced), None), next(iter(shadow), None), said)

    def files(self, digest: str) -> dict[str, str]:
        """Give the files of a version, by name under `policies/`.

        Raises:
            NothingRecorded: there is no such version.
        """
        with self._reading() as connection:
            rows = _rows(connection, _FILES, digest=digest)
        if not rows:
            raise NothingRecorded(
                f"there is no stored policy {digest[:SHORT]}; see: toolgate policy versions"
            )
        return read_files(digest, rows[0]["files"])

    def named(self, begins: str) -> str:
        """Give the digest that begins so.

        Raises:
            NothingRecorded: there is none, or more than one.
        """
        with self._reading() as connection:
            found = [row["digest"] for row in _rows(connection, _NAMED, begins=begins)]
        if len(found) != 1 or len(begins) < _LEAST or not begins.isalnum():
            many = "more than one" if len(found) > 1 else "no"
            raise NothingRecorded(
                f"there is {many} stored policy that begins with {begins[:64]!r}; "
                f"say {_LEAST} digits or more of one of: toolgate policy versions"
            )
        digest: str = found[0]
        return digest

    def before(self, enforced: Activation) -> str:
        """Give the digest of the version that was in force before.

        Raises:
            NothingRecorded: there was none.
        """
        with self._reading() as connection:
            rows = _rows(connection, _BEFORE, entry=enforced.entry)
        if not rows or not rows[0]["previous"]:
            raise NothingRecorded("no other policy was in force before")
        before: str = rows[0]["previous"]
        return before

    def versions(self) -> list[Version]:
        """Give all versions, that which was stored last first."""
        with self._reading() as connection:
            told: dict[str, list[Change]] = {}
            changes = with_views(connection, "SELECT * FROM audit_policies_v1 ORDER BY entry DESC")
            for row in _rows(connection, changes):
                told.setdefault(row["policy"], []).append(_change(row))
            return [
                Version(
                    digest=row["digest"],
                    stored_at=moment(row["at"]),
                    changes=tuple(told.get(row["digest"], ())),
                )
                for row in _rows(connection, _VERSIONS)
            ]

    @contextmanager
    def _reading(self) -> Generator[Connection]:
        """Open a connection for what shall be read from one moment."""
        database = self._database
        try:
            with database.engine().connect() as connection:
                if connection.dialect.name == "sqlite":
                    connection.exec_driver_sql("BEGIN")  # the driver begins none before a SELECT
                else:
                    connection.execution_options(isolation_level="REPEATABLE READ")
                yield connection
        except SQLAlchemyError as error:
            fault = database.fault() if database.exists() else "it is not there"
            raise LedgerUnavailable(f"{database.name}: {fault or cause(error)}") from error


def standing_of(enforced: Named | None, shadow: Named | None, said: int | None) -> Standing:
    """Give what the newest row of each place says; `said` is the newest entry about any.

    Raises:
        LedgerUnavailable: the ledger does not say what a row says.
    """
    beside = None if shadow is None else _activation(shadow)
    newest = max((row["entry"] for row in (enforced, shadow) if row is not None), default=None)
    if newest != said:
        raise LedgerUnavailable(
            f"the newest activation is of entry {newest}, but the ledger tells of one in entry {said}: "
            "a row was removed; restore the database from a backup"
        )
    return Standing(
        newest=newest,
        enforced=None if enforced is None else _activation(enforced),
        shadow=None if shadow is None or shadow["mode"] == "shadow_ended" else beside,
    )


def read_files(digest: str, spelled: bytes) -> dict[str, str]:
    """Read a stored version, whose digest is the SHA-256 of what is stored.

    Raises:
        LedgerUnavailable: it is not what its digest says.
    """
    if hashlib.sha256(spelled).hexdigest() != digest:
        raise LedgerUnavailable(
            f"the stored policy {digest[:SHORT]} is not what its digest says: it was changed; "
            "restore it from a backup, or activate another"
        )
    files: dict[str, str] = orjson.loads(spelled)
    return files


def _activation(row: Named) -> Activation:
    body: dict[str, Any] = orjson.loads(row["body"] or b"{}")
    if row["kind"] != "policy" or body["policy"] != row["digest"] or _MODES[row["status"]] != row["mode"]:
        raise LedgerUnavailable(
            f"the activation of entry {row['entry']} is not what the ledger says: it was changed; "
            "run: toolgate ledger verify"
        )
    return Activation(
        entry=row["entry"],
        digest=row["digest"],
        at=moment(row["at"]),
        override=bool(body.get("override")),
    )


def _change(row: Named) -> Change:
    return Change(
        entry=row["entry"],
        at=moment(row["at"]),
        status=row["status"],
        by_whom=row["by_whom"],
        override=bool(row["override"]),
        because=row["because"],
        cases=row["cases"],
    )


def _rows(connection: Connection, statement: Executable, **parameters: str | int) -> Sequence[RowMapping]:
    return connection.execute(statement, parameters).mappings().all()
