"""`toolgate ledger prove`, `verify`, `recover`, `rotate-key`: the ledger's proofs, and its key."""

import asyncio
import base64
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import SecretStr
from rich.progress import Progress
from rich.text import Text

from toolgate.backends.checkpoints import AcceptedLoss, Checkpoints, Loss
from toolgate.backends.cose_receipts import receipt
from toolgate.backends.cosignatures import note_over
from toolgate.backends.export_files import replaced
from toolgate.backends.ledger_entries import Entries
from toolgate.backends.ledger_parts import writer_of
from toolgate.backends.ledger_proofs import demand_entry, loss_in, proof_of
from toolgate.backends.log_key import LogKey
from toolgate.backends.log_key_rotation import begin_rotation
from toolgate.backends.parquet_verify import verify_parquet
from toolgate.backends.postgres_source import verify_postgres
from toolgate.cli.audit_read import record_read
from toolgate.cli.cosigned import published_over
from toolgate.cli.output import HERE, AsJson, Root, complain, err, out, print_json, printable
from toolgate.cli.progress import Bar
from toolgate.core.errors import LedgerUnavailable, Misconfigured
from toolgate.core.note import Note
from toolgate.core.record import JsonObject
from toolgate.main import now, open_ledger
from toolgate.parts import RANDOM, ledger_database, ledger_files, ledger_url, shared_keys
from toolgate.settings import Settings, read_settings
from toolgate.verifier import (
    EXIT,
    Policy,
    Report,
    Unreadable,
    VerifierKey,
    read_keys,
    read_note,
    read_policy,
    verify_consistency,
    verify_ledger,
    verify_proof,
)
from toolgate.witnessing import policy_of

_POSTGRESQL: Final = ("postgresql://", "postgres://")
_PATIENCE: Final = 2.0
"""Seconds of work after which a person is shown how far it is."""


def prove(
    entry: Annotated[int, typer.Argument(help="The entry's number.", min=0, metavar="ENTRY")],
    file: Annotated[Path | None, typer.Option("--out", help="Where to; standard output by default.")] = None,
    unwitnessed: Annotated[  # noqa: FBT002 - a command's flag
        bool, typer.Option("--unwitnessed", help="Under the newest checkpoint, whoever has cosigned it.")
    ] = False,
    cose: Annotated[
        Path | None, typer.Option("--cose", help="Write a COSE receipt (RFC 9942) to this file besides.")
    ] = None,
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """Write one file that proves an entry to whoever has the log's verifier key."""
    settings = read_settings(root)
    database = ledger_database(root, settings)
    demand_entry(database, entry)
    record_read(root, settings, "prove", {"entry": entry})
    policy, faults = (None, []) if unwitnessed else policy_of(root, settings)
    if faults:
        raise Misconfigured(faults)
    note = note_over(database.engine(), entry, policy)
    if note is None:
        note = asyncio.run(published_over(root, settings, entry, policy))
    proof = proof_of(database, entry, note)
    if proof is None:
        raise LedgerUnavailable(f"no checkpoint covers entry {entry}, and none could be published")
    if cose is not None:
        key = LogKey.read(root / settings.ledger_key)
        with replaced(cose) as opened:
            opened.write(receipt(proof, key))
    if file is not None:
        file.write_text(f"{proof}", "utf-8")
    if as_json:
        written = {"proof": f"{proof}"} if file is None else {"file": f"{file}"}
        written |= {} if cose is None else {"receipt": f"{cose}"}
        print_json({"entry": entry, "size": proof.size, **written})
    elif file is None:
        typer.echo(f"{proof}", nl=False)
    else:
        err().print(Text(f"{file} proves that entry {entry} is among the first {proof.size}", style="green"))


def verify(  # noqa: PLR0913, PLR0917 - the options of one command
    database: Annotated[
        str | None,
        typer.Option("--db", help="A copy: a file, or postgresql://…; the deployment's own by default."),
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
    parquet: Annotated[
        Path | None, typer.Option("--parquet", help="The directory of an export to verify instead.")
    ] = None,
    witnesses: Annotated[
        str | None,
        typer.Option("--witnesses", help="A policy file: its quorum must have cosigned it.", metavar="FILE"),
    ] = None,
    hashes_only: Annotated[  # noqa: FBT002 - a command's flag
        bool, typer.Option("--hashes-only", help="Leave out columns, grammar and payloads.")
    ] = False,
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """Verify the ledger, or a proof out of it. Exits 0 verified, 1 tampered with, 2 cannot tell."""
    try:
        policy = None if witnesses is None else read_policy(witnesses)
        keys = [one for text in key or [] for one in read_keys(text)] + list(policy.logs if policy else ())
        wanted = _Wanted(database, root, keys, checkpoint or [], hashes_only, policy)
        report = _verified(wanted, proof, consistency) if parquet is None else _export(parquet, wanted)
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
    loss = loss_in(ledger_database(root, settings), _checkpoints(root, settings))
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

    given: str | None
    root: Path
    keys: list[VerifierKey]
    checkpoints: list[str]
    hashes_only: bool
    policy: Policy | None = None

    @property
    def database(self) -> Path | SecretStr:
        """A file, or the address of a PostgreSQL database."""
        if self.given is not None:
            return SecretStr(self.given) if self.given.startswith(_POSTGRESQL) else Path(self.given)
        settings = read_settings(self.root)
        return ledger_url(settings) or self.root / settings.database


def _verified(wanted: _Wanted, proof: Path | None, consistency: tuple[str, str] | None) -> Report:
    if consistency is None and proof is not None:
        return verify_proof(_text(proof), wanted.keys, wanted.policy)
    if consistency is not None:
        old, new = (read_note(file) for file in consistency)
        if proof is not None:
            return verify_consistency(old, new, _text(proof), wanted.keys, wanted.policy)
        if new.size < old.size or new.origin != old.origin:
            raise Unreadable(
                "the newer checkpoint is of another log, or counts fewer; give the older one first"
            )
    files = [*wanted.checkpoints, *(consistency or ())]
    report = _with_progress(wanted, files, hashes_only=wanted.hashes_only or consistency is not None)
    if report.doubts and not (wanted.keys and files):
        report.doubts.append(_COPIES)
    return report


def _export(directory: Path, wanted: _Wanted) -> Report:
    with Bar("entries") as bar:
        return verify_parquet(
            directory,
            keys=wanted.keys,
            checkpoints=[(file, read_note(file)) for file in wanted.checkpoints],
            progress=bar.show,
        )


def _with_progress(wanted: _Wanted, files: list[str], *, hashes_only: bool) -> Report:
    console, begun = err(), time.monotonic()
    with Progress(
        console=console, transient=True, disable=not console.is_terminal, auto_refresh=False
    ) as bar:
        task = bar.add_task("entries", total=None, visible=False)

        def show(done: int, total: int) -> None:
            visible = time.monotonic() - begun > _PATIENCE
            bar.update(task, completed=done, total=total, visible=visible, refresh=visible)

        where = wanted.database
        verify = partial(verify_ledger, where) if isinstance(where, Path) else partial(verify_postgres, where)
        return verify(
            keys=wanted.keys,
            checkpoints=[(file, read_note(file)) for file in files],
            policy=wanted.policy,
            hashes_only=hashes_only,
            progress=show if console.is_terminal else None,
        )


async def _recovered(root: Path, settings: Settings) -> tuple[int, Note | None]:
    """Record the loss, then publish: before the second step is done, the ledger is refused as before."""
    accepting = AcceptedLoss(LogKey.read(root / settings.ledger_key), root / settings.checkpoint)
    writer = writer_of(ledger_files(root, settings), accepting, now=now)
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
        keys = shared_keys(root, settings)
        share = None if keys is None else keys.share
        rotate = partial(begin_rotation, entries=ledger.entries, file=file, share=share)
        entry, new = await ledger.writer.write(rotate)
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
