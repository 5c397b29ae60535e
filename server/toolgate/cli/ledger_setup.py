"""`toolgate ledger setup`: makes a PostgreSQL ledger's tables, and lets gates and auditors in."""

from typing import Annotated

import typer
from rich.text import Text

from toolgate.backends.postgres_connection import PostgresConnection, PostgresError, fault_in, shown, told
from toolgate.backends.postgres_schema import REVISIONS, grant, make, revision_of, whole
from toolgate.cli.output import AsJson, out, print_json
from toolgate.core.errors import LedgerUnavailable

_PATIENCE = 60.0
"""Seconds that a statement may wait for gates that are writing."""


def setup(
    owner_url: Annotated[
        str,
        typer.Option(
            help="The database, as the owner of its tables; the password best in a PGPASSFILE.",
            envvar="TOOLGATE_OWNER_URL",
            show_envvar=False,
        ),
    ],
    writer: Annotated[str, typer.Option(help="The role of the gates, which may add and change nothing.")],
    reader: Annotated[str | None, typer.Option(help="The role of auditors, which may only read.")] = None,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """Make or upgrade a PostgreSQL ledger's tables, and give two roles the rights that they need."""
    if problem := fault_in(owner_url):
        raise typer.BadParameter(problem, param_hint="--owner-url")
    if writer == reader:
        raise typer.BadParameter("gates and auditors need two roles", param_hint="--reader")
    before = _set_up(owner_url, writer, reader)
    now, name = REVISIONS[-1], shown(owner_url)
    if as_json:
        print_json({"ok": True, "database": name, "before": before, "revision": now})
        return
    done = {None: "were made", now: "were there"}.get(before, f"were upgraded from revision {before}")
    roles = f"{writer} may write" + (f", {reader} may read" if reader else "")
    out().print(Text(f"{name}: the ledger's tables {done} (revision {now}); {roles}."))


def _set_up(url: str, writer: str, reader: str | None) -> str | None:
    """Do all of it, or nothing; gives the revision that was there before."""
    connection = PostgresConnection(url, seconds=_PATIENCE, purpose="setup")
    try:
        with whole(connection):
            before = revision_of(connection)
            make(connection)
            grant(connection, writer=writer, reader=reader)
    except PostgresError as error:
        raise LedgerUnavailable(f"{shown(url)} could not be set up: {told(error)}") from error
    finally:
        connection.close()
    return before
