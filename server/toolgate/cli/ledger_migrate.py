"""`toolgate ledger migrate`: moves the deployment's ledger from its SQLite file to PostgreSQL."""

import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import typer
from pydantic import SecretStr
from rich.text import Text

from toolgate.backends.checkpoints import Checkpoints
from toolgate.backends.ledger_move import has_begun, move
from toolgate.backends.log_key import LogKey
from toolgate.backends.postgres_connection import fault_in, has_password, place
from toolgate.cli.audit_read import record_read
from toolgate.cli.local import demand_owner
from toolgate.cli.output import HERE, AsJson, Root, complain, err, out, print_json
from toolgate.cli.progress import Bar
from toolgate.core.errors import Fault, LedgerUnavailable, Misconfigured
from toolgate.parts import ledger_url
from toolgate.settings import FILE, Settings, read_settings

_BY_CTRL_C: Final = 130
_PASSWORD: Final = "set TOOLGATE_DATABASE_PASSWORD, or use a PGPASSFILE"  # noqa: S105 - none


def migrate(
    to: Annotated[
        str | None, typer.Option(help="postgresql://…, without a password; database_url by default.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,  # noqa: FBT002 - a flag
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """Move the ledger from its SQLite file to PostgreSQL, with the same tree and checkpoints.

    Stop every gate first. Interrupted at any moment it has lost nothing: run it again.
    """
    settings = read_settings(root)
    demand_owner(root, "may move the ledger")
    url = _target(settings, to)
    file, where = root / settings.database, place(url.get_secret_value())
    begun = has_begun(file)
    if not yes and not _agreed(file, where):
        raise LedgerUnavailable("nothing was moved")
    if not begun:
        record_read(root, _on_sqlite(settings), "migrate", {"to": where})
    checkpoints = Checkpoints(LogKey.read(root / settings.ledger_key), root / settings.checkpoint)
    with _ended_by_ctrl_c(as_json=as_json), Bar("rows") as bar:
        entries = move(file, url, checkpoints, bar.show)
    if as_json:
        print_json({"ok": True, "entries": entries, "to": where})
        return
    _say(f"{entries} entries are at {where}, under the same tree. {file.name} stays as it was,")
    _say("as a copy that can be verified; nothing is written to it any more.")
    if to is not None:
        _say(f'Say in {FILE}, then start the gates:\n\n    database_url = "{to}"\n')


@contextmanager
def _ended_by_ctrl_c(*, as_json: bool) -> Generator[None]:
    """Say that nothing is lost, whatever Ctrl-C broke off; a driver may make an error of its own of it."""
    stopped = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    except (KeyboardInterrupt, LedgerUnavailable) as error:
        if not stopped:
            raise
        complain(LedgerUnavailable("stopped; run it again, it loses nothing"), as_json=as_json)
        raise typer.Exit(_BY_CTRL_C) from error
    finally:
        signal.signal(signal.SIGINT, before)


def _target(settings: Settings, to: str | None) -> SecretStr:
    """Give the address to move to, with its password.

    Raises:
        Misconfigured: there is none, it is none, or it shows a password to everybody on this machine.
    """
    if to is None:
        url = ledger_url(settings)
        if url is None:
            problem, remedy = "nothing says where to", "say --to postgresql://role@host/name"
            raise Misconfigured([Fault(FILE, "database_url", problem, remedy)])
        return url
    is_one = to.startswith(("postgresql://", "postgres://"))
    if wrong := fault_in(to) if is_one else "it is no address of PostgreSQL":
        raise Misconfigured([Fault("--to", "address", wrong, "say postgresql://role@host/name")])
    if has_password(to):
        raise Misconfigured([Fault("--to", "password", "everybody on this machine can see it", _PASSWORD)])
    said = ledger_url(settings.model_copy(update={"database_url": SecretStr(to)}))
    return SecretStr(to) if said is None else said


def _on_sqlite(settings: Settings) -> Settings:
    return settings.model_copy(update={"database_url": None})


def _agreed(file: Path, where: str) -> bool:
    if not sys.stdin.isatty():
        raise LedgerUnavailable("nobody is there to be asked; say --yes")
    said = f"The ledger in {file} goes to {where}; from then on gates serve it from there."
    err().print(Text(said))
    return typer.confirm("Move it?")


def _say(text: str) -> None:
    out().print(Text(text))
