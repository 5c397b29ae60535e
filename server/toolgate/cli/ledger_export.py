"""`toolgate ledger export`, and the writing of bundles: the ledger for those who have no part of the gate."""

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from toolgate.backends.export_bundle import Answer, Beside, covered, write_bundle
from toolgate.backends.export_files import replaced
from toolgate.backends.export_ocsf import Sent, Wanted, export_ocsf, keep_cursor, read_cursor
from toolgate.backends.export_tiles import export_tiles
from toolgate.backends.ledger_reading import Published
from toolgate.backends.log_key import LogKey
from toolgate.cli.audit_read import record_read
from toolgate.cli.ledger_parquet import NoValues, Parquet, to_parquet
from toolgate.cli.output import HERE, AsJson, Root, err, out, print_json
from toolgate.cli.progress import Bar
from toolgate.core.note import BadNote
from toolgate.core.record import JsonObject
from toolgate.main import open_ledger
from toolgate.parts import ledger_database
from toolgate.settings import Settings, read_settings

_HINT = "--tiles, --ocsf, --parquet"


def export(  # noqa: PLR0913, PLR0917 - the options of one command
    tiles: Annotated[
        Path | None, typer.Option("--tiles", help="Write or bring up to date a folder of C2SP tlog-tiles.")
    ] = None,
    ocsf: Annotated[
        Path | None,
        typer.Option("--ocsf", help="Write OCSF events, a line of JSON each; - is standard output."),
    ] = None,
    since_index: Annotated[
        int | None, typer.Option("--since-index", help="With --ocsf: the first entry to write.", min=0)
    ] = None,
    cursor: Annotated[
        Path | None,
        typer.Option(
            "--cursor", help="With --ocsf: go on after what this file says, and keep it up to date."
        ),
    ] = None,
    names: Annotated[  # noqa: FBT002 - a command's flag
        bool, typer.Option("--names", help="With --ocsf: say whom pseudonyms stand for.")
    ] = False,
    whole: Annotated[  # noqa: FBT002 - a command's flag
        bool, typer.Option("--raw", help="With --ocsf: let each event hold its entry as it was recorded.")
    ] = False,
    parquet: Parquet = None,
    no_values: NoValues = False,  # noqa: FBT002 - a command's flag
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """Write the ledger in a form that others read. What is there stays; a run that was stopped can go on."""
    if sum(one is not None for one in (tiles, ocsf, parquet)) != 1:
        raise typer.BadParameter("say one form to write", param_hint=_HINT)
    if ocsf is None and (since_index is not None or cursor is not None or names or whole):
        raise typer.BadParameter(
            "--since-index, --cursor, --names and --raw are for --ocsf", param_hint=_HINT
        )
    if parquet is None and no_values:
        raise typer.BadParameter("--no-values is for --parquet", param_hint=_HINT)
    if since_index is not None and cursor is not None:
        raise typer.BadParameter("say either", param_hint="--since-index, --cursor")
    if tiles is not None:
        _tiles(root, tiles, as_json=as_json)
    elif parquet is not None:
        to_parquet(root, parquet, values=not no_values, as_json=as_json)
    elif ocsf is not None:
        _Events(root, ocsf, cursor, Wanted(first=since_index or 0, names=names, whole=whole)).export(
            as_json=as_json
        )


def _tiles(root: Path, folder: Path, *, as_json: bool) -> None:
    settings = read_settings(root)
    record_read(root, settings, "export tiles", {"folder": f"{folder}"})
    with Bar("entries") as bar:
        done = export_tiles(ledger_database(root, settings).engine(), folder, bar.show)
    size = done.published.size
    said = f"{folder} holds the first {size} entries, {size - done.before} of them new"
    document: JsonObject = {"ok": True, "folder": f"{folder}", "before": done.before, "size": size}
    _say(said, document, as_json=as_json)


@dataclass(frozen=True)
class _Events:
    """One export of events."""

    root: Path
    file: Path
    cursor: Path | None
    wanted: Wanted

    def export(self, *, as_json: bool) -> None:
        """Write the events, then keep the cursor: broken off between, they are written once more."""
        to_others = f"{self.file}" == "-"
        if not to_others and self.file.exists():
            raise typer.BadParameter(
                f"{self.file} is there already, and may not have been read yet; name a new file",
                param_hint="--ocsf",
            )
        after = read_cursor(self.cursor) if self.cursor is not None else None
        wanted = self.wanted if after is None else _from(self.wanted, after.size)
        settings = read_settings(self.root)
        asked: JsonObject = {"first": wanted.first, "names": wanted.names}
        record_read(self.root, settings, "export ocsf", asked)
        if to_others:
            sent = self._to_standard_output(settings, wanted, after)
        else:
            sent = self._to_file(settings, wanted, after)
        if self.cursor is not None:
            keep_cursor(self.cursor, sent)
        self._say(sent, as_json=as_json and not to_others, quietly=to_others)

    def _to_standard_output(self, settings: Settings, wanted: Wanted, after: Published | None) -> Sent:
        engine = ledger_database(self.root, settings).engine()
        try:
            with Bar("entries") as bar:
                return export_ocsf(engine, sys.stdout.buffer, wanted, bar.show, after=after)
        except BrokenPipeError:
            # Whoever read them is gone. Python would try to write the rest once more when it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise

    def _to_file(self, settings: Settings, wanted: Wanted, after: Published | None) -> Sent:
        engine = ledger_database(self.root, settings).engine()
        with replaced(self.file, private=True) as file, Bar("entries") as bar:
            return export_ocsf(engine, file, wanted, bar.show, after=after)

    def _say(self, sent: Sent, *, as_json: bool, quietly: bool) -> None:
        checkpoint = sent.published.checkpoint
        count = sent.next - sent.first
        span = f"entries {sent.first} to {sent.next - 1}" if count else "no entries"
        said = f"{count} events: {span}, under the checkpoint of {checkpoint.size} entries"
        document: JsonObject = {"ok": True, "events": count, "first": sent.first, "next": sent.next}
        document |= {"log": checkpoint.origin, "checkpoint": f"{sent.published.note}"}
        if quietly:
            err().print(Text(said))
        else:
            _say(said, document, as_json=as_json)


def _from(wanted: Wanted, first: int) -> Wanted:
    return Wanted(first=first, names=wanted.names, whole=wanted.whole)


@dataclass(frozen=True)
class Bundling:
    """Where a bundle goes, and what is in it beside the answer."""

    root: Path
    file: Path
    old: Path | None
    values: bool

    def record(self, name: str, asked: JsonObject) -> Published | None:
        """Record that the answer is asked for; gives the older checkpoint, which is read before.

        Raises:
            LedgerUnavailable: it could not be recorded.
        """
        old = None if self.old is None else read_checkpoint(self.old)
        record_read(self.root, read_settings(self.root), "bundle", {"query": name, **asked})
        return old

    def write(self, answer: Answer, old: Published | None, *, as_json: bool) -> None:
        """Write the bundle of an answer that was recorded."""
        settings = read_settings(self.root)
        engine = ledger_database(self.root, settings).engine()
        if not covered(engine, answer):
            asyncio.run(_publish(self.root, settings))
        key = LogKey.read(self.root / settings.ledger_key).verifier
        beside = Beside(keys=[f"{key}"], old=old, values=self.values)
        with replaced(self.file, private=True) as file, Bar("entries") as bar:
            published = write_bundle(engine, file, answer, beside, bar.show)
        entries = len(answer.entries)
        said = (
            f"{self.file} holds {len(answer.found.rows)} rows, and proves the {entries} entries behind them"
        )
        document: JsonObject = {"ok": True, "file": f"{self.file}", "rows": len(answer.found.rows)}
        _say(said, document | {"entries": entries, "size": published.size}, as_json=as_json)
        if answer.found.more:
            err().print("there are more rows than that; narrow it, or say --most")


def read_checkpoint(file: Path) -> Published:
    """Read a checkpoint that somebody kept. Raises `typer.BadParameter`."""
    try:
        return Published.parse(file.read_text("utf-8"))
    except (UnicodeDecodeError, BadNote) as error:
        raise typer.BadParameter(f"{file} is no checkpoint", param_hint="--old") from error


async def _publish(root: Path, settings: Settings) -> None:
    async with open_ledger(root, settings) as ledger:
        await ledger.writer.publish()


def _say(text: str, document: JsonObject, *, as_json: bool) -> None:
    if as_json:
        print_json(document)
    else:
        out().print(Text(text, style="green"))
