"""`toolgate ledger prove`, `verify`, `recover`, `rotate-key`: the ledger's proofs, and its key."""

import asyncio
import base64
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.progress import Progress
from rich.text import Text

from toolgate.backends.checkpoints import AcceptedLoss, Checkpoints, Loss
from toolgate.backends.ledger_entries import Entries
from toolgate.backends.ledger_proofs import demand_entry, loss_in, proof_of
from toolgate.backends.log_key import LogKey
from toolgate.backends.log_key_rotation import begin_rotation
from toolgate.backends.sqlite_writer import SqliteWriter
from toolgate.cli.audit_read import record_read
from toolgate.cli.output import HERE, AsJson, Root, complain, err, out, print_json, printable
from toolgate.core.errors import LedgerUnavailable, Misconfigured
from toolgate.core.note import Note
from toolgate.core.record import JsonObject
from toolgate.main import now, open_ledger
from toolgate.parts import RANDOM
from toolgate.settings import Settings, read_settings
from toolgate.verifier import (
    EXIT,
    Report,
    Unreadable,
    VerifierKey,
    read_keys,
    read_note,
    verify_consistency,
    verify_ledger,
    verify_proof,
)

_PATIENCE: Final = 2.0
"""Seconds of work after which a person is shown how far it is."""


def prove(
    entry: Annotated[int, typer.Argument(help="The entry's number.", min=0, metavar="ENTRY")],
    file: Annotated[Path | None, typer.Option("--out", help="Where to; standard output by default.")] = None,
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """Write one file that proves an entry to whoever has the log's verifier key."""
    settings = read_settings(root)
    database = root / settings.database
    demand_entry(database, entry)
    record_read(root, settings, "prove", {"entry": entry})
    proof = proof_of(database, entry)
    if proof is None:
        asyncio.run(_publish(root, settings))
        proof = proof_of(database, entry)
    if proof is None:
        raise LedgerUnavailable(f"no checkpoint covers entry {entry}, and none could be published")
    if file is not None:
        file.write_text(f"{proof}", "utf-8")
    if as_json:
        written = {"proof": f"{proof}"} if file is None else {"file": f"{file}"}
        print_json({"entry": entry, "size": proof.size, **written})
    elif file is None:
        typer.echo(f"{proof}", nl=False)
    else:
        err().print(Text(f"{file} proves that entry {entry} is among the first {proof.size}", style="green"))


def verify(  # noqa: PLR0913, PLR0917 - the options of one command
    database: Annotated[
        Path | None, typer.Option("--db", help="A copy of the database; the deployment's by default.")
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option("--key", help="The log's verifier key, or a file with it; a copy kept elsewhere."),
    ] = None,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option("--checkpoint", help="A file with a checkpoint that was kept elsewhere."),
    ] = None,
    proof: Annotated[
        Path | None, typer.Option("--proof", help="A proof to verify, without a database.")
    ] = None,
    consistency: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--consistency", help="Two checkpoints: the newer must only have added.", metavar="OLD NEW"
        ),
    ] = None,
    hashes_only: Annotated[  # noqa: FBT002 - a command's flag
        bool, typer.Option("--hashes-only", help="Leave out columns, grammar and payloads.")
    ] = False,
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """Verify the ledger, or a proof out of it. Exits 0 verified, 1 tampered with, 2 cannot tell."""
    try:
        keys = [one for text in key or [] for one in read_keys(text)]
        wanted = _Wanted(database, root, keys, checkpoint or [], hashes_only)
        report = _verified(wanted, proof, consistency)
    except Unreadable as error:
        report = Report(doubts=[str(error)])
    except Misconfigured as error:
        complain(error, as_json=as_json)
        raise typer.Exit(EXIT["cannot tell"]) from error
    if as_json:
        typer.echo(report.as_json())
    else:
        style = {"verified": "green", "tampered": "bold red", "cannot tell": "yellow"}[report.verdict]
        for number, line in enumerate(report.lines()):
            out().print(Text(printable(line), style="" if number else style))
    raise typer.Exit(EXIT[report.verdict])


def recover(
    accept_loss: Annotated[  # noqa: FBT002 - a command's flag
        bool, typer.Option("--accept-loss", help="Go on without what is lost.")
    ] = False,
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """Let a ledger go on that holds less than was published, or something else. The loss is recorded."""
    settings = read_settings(root)
    loss = loss_in(root / settings.database, _checkpoints(root, settings))
    if loss is None:
        _said("nothing is lost; nothing was changed", {"ok": True, "lost": False}, as_json=as_json)
        return
    if not accept_loss:
        raise LedgerUnavailable(f"{loss}. {_FORGOTTEN}")
    entry, note = asyncio.run(_recovered(root, settings))
    document: JsonObject = {
        "ok": True,
        "lost": True,
        "entry": entry,
        **_detail(loss),
        "checkpoint": f"{note}",
    }
    said = (
        f"The ledger goes on with {loss.kept} entries; {loss.published.size} were published. "
        f"The loss is recorded (ledger entry {entry}), and a new checkpoint is published. {_FORGOTTEN}"
    )
    _said(said, document, as_json=as_json)


def rotate_key(root: Root = HERE, as_json: AsJson = False) -> None:  # noqa: FBT002 - a command's flag
    """Give the ledger a new key: the old one endorses it, and both sign the next checkpoint."""
    settings = read_settings(root)
    entry, old, new = asyncio.run(_rotated(root, settings))
    document: JsonObject = {"ok": True, "entry": entry, "old": f"{old.verifier}", "new": f"{new.verifier}"}
    said = (
        f"The ledger's key is now {new.verifier} (ledger entry {entry}). Keep this where the gate cannot "
        "write, beside the old one. The old key signs nothing any more; it is kept as "
        f"{settings.ledger_key}.{old.verifier.id.hex()}."
    )
    _said(said, document, as_json=as_json)


@dataclass(frozen=True)
class _Wanted:
    """What is to be verified, and by what."""

    given: Path | None
    root: Path
    keys: list[VerifierKey]
    checkpoints: list[str]
    hashes_only: bool

    @property
    def database(self) -> Path:
        return self.given or self.root / read_settings(self.root).database


def _verified(wanted: _Wanted, proof: Path | None, consistency: tuple[str, str] | None) -> Report:
    if consistency is None and proof is not None:
        return verify_proof(_text(proof), wanted.keys)
    if consistency is not None:
        old, new = (read_note(file) for file in consistency)
        if proof is not None:
            return verify_consistency(old, new, _text(proof), wanted.keys)
        if new.size < old.size or new.origin != old.origin:
            raise Unreadable(
                "the newer checkpoint is of another log, or counts fewer; give the older one first"
            )
    files = [*wanted.checkpoints, *(consistency or ())]
    report = _with_progress(wanted, files, hashes_only=wanted.hashes_only or consistency is not None)
    if report.doubts and not (wanted.keys and files):
        report.doubts.append(_COPIES)
    return report


def _with_progress(wanted: _Wanted, files: list[str], *, hashes_only: bool) -> Report:
    console, begun = err(), time.monotonic()
    with Progress(
        console=console, transient=True, disable=not console.is_terminal, auto_refresh=False
    ) as bar:
        task = bar.add_task("entries", total=None, visible=False)

        def show(done: int, total: int) -> None:
            visible = time.monotonic() - begun > _PATIENCE
            bar.update(task, completed=done, total=total, visible=visible, refresh=visible)

        return verify_ledger(
            wanted.database,
            keys=wanted.keys,
            checkpoints=[(file, read_note(file)) for file in files],
            hashes_only=hashes_only,
            progress=show if console.is_terminal else None,
        )


async def _publish(root: Path, settings: Settings) -> Note | None:
    async with open_ledger(root, settings) as ledger:
        return await ledger.writer.publish()


async def _recovered(root: Path, settings: Settings) -> tuple[int, Note | None]:
    """Record the loss, then publish: before the second step is done, the ledger is refused as before."""
    accepting = AcceptedLoss(LogKey.read(root / settings.ledger_key), root / settings.checkpoint)
    writer = SqliteWriter(root / settings.database, accepting, clock=lambda: now().timestamp())
    try:
        if accepting.accepted is None:
            raise LedgerUnavailable("nothing is lost any more; nothing was changed")
        entries = Entries(now=now, random=RANDOM.take)
        fault = entries.bare("fault", "loss_accepted", detail=_detail(accepting.accepted))
        entry = await writer.write(lambda batch: batch.append(fault))
        return entry, await writer.publish()
    finally:
        await asyncio.to_thread(writer.close)


async def _rotated(root: Path, settings: Settings) -> tuple[int, LogKey, LogKey]:
    file = root / settings.ledger_key
    async with open_ledger(root, settings) as ledger:
        old = LogKey.read(file)
        entry, new = await ledger.writer.write(partial(begin_rotation, entries=ledger.entries, file=file))
        await ledger.writer.publish()
        return entry, old, new


def _checkpoints(root: Path, settings: Settings) -> Checkpoints:
    return Checkpoints(LogKey.read(root / settings.ledger_key), root / settings.checkpoint)


def _detail(loss: Loss) -> JsonObject:
    """Spell a loss for the ledger: what was published last, and how many entries are kept."""
    root = base64.b64encode(loss.published.root).decode()
    return {"size": loss.published.size, "root": root, "kept": loss.kept}


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Unreadable(f"{file} cannot be read: {error}") from error


def _said(text: str, document: JsonObject, *, as_json: bool) -> None:
    if as_json:
        print_json(document)
    else:
        out().print(Text(text))


_COPIES: Final = (
    "pass copies that were kept where the gate cannot write: --key FILE --checkpoint FILE; those beside the "
    "database show nothing, because whoever can change one can change all"
)
_FORGOTTEN: Final = (
    "Whatever was recorded after what is kept is forgotten: a call made then is not known under its key "
    "any more, and asking again would run it again"
)
