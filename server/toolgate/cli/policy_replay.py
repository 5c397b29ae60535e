"""`toolgate policy replay`: what other rules would have said to the calls of a verified ledger."""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import typer
from rich.progress import Progress
from rich.text import Text

from toolgate.backends.audit_queries import moment_in
from toolgate.backends.policy.replaying import Replay, Replayed, no_collection
from toolgate.backends.policy.text import PolicyText
from toolgate.backends.recorded_calls import NotJudged, RecordedCalls, RecordedJudgement, Window
from toolgate.cli.audit_read import record_read
from toolgate.cli.output import HERE, AsJson, Root, complain, err, out, print_json, printable
from toolgate.cli.policy_parts import WRONG_USE, catalog_of, policy_called
from toolgate.cli.policy_replayed import Replaying, document, lines, markdown
from toolgate.core.errors import LedgerUnavailable, Misconfigured, NothingRecorded
from toolgate.core.record import JsonObject
from toolgate.main import now
from toolgate.parts import ledger_database
from toolgate.settings import Settings, read_settings
from toolgate.verifier import Report, Unreadable, read_keys, read_note, verify_ledger

Format = Literal["text", "markdown", "json"]
FailOn = Literal["any", "gain", "loss"]
_PATIENCE: Final = 2.0
"""Seconds of work after which a person is shown how far it is."""
_EVERY: Final = 5_000


@dataclass(frozen=True, kw_only=True)
class _Copies:
    """By what the ledger is verified."""

    keys: list[str]
    checkpoints: list[str]

    @property
    def own(self) -> bool:
        """Whether it is by what lies beside the database."""
        return not (self.keys and self.checkpoints)


def replay(  # noqa: PLR0913, PLR0917 - the options of one command
    new: Annotated[str, typer.Argument(help="A folder with other policy files.", metavar="NEW")],
    since: Annotated[str, typer.Option(help="From then on: 2026-03-01, or 30d ago.")] = "30d",
    until: Annotated[str | None, typer.Option(help="Before then.")] = None,
    fail_on: Annotated[FailOn, typer.Option(help="Which flips make it exit 1.")] = "any",
    form: Annotated[Format, typer.Option("--format", help="How to print it.")] = "text",
    key: Annotated[
        list[str] | None, typer.Option(help="The log's verifier key; a copy kept elsewhere.")
    ] = None,
    checkpoint: Annotated[
        list[str] | None, typer.Option(help="A checkpoint's file; a copy kept elsewhere.")
    ] = None,
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """Judge recorded calls under other rules. Exits 0 no flips, 1 flips, 2 used wrongly or not verified."""
    as_json = as_json or form == "json"
    try:
        found = _replayed(root, new, (since, until), _Copies(keys=key or [], checkpoints=checkpoint or []))
    except (Misconfigured, NothingRecorded, LedgerUnavailable, Unreadable) as error:
        complain(error, as_json=as_json)
        raise typer.Exit(WRONG_USE) from error
    if as_json:
        print_json(document(found))
    else:
        for line in markdown(found) if form == "markdown" else map(printable, lines(found)):
            out().print(Text(line))
    raise typer.Exit(_exit(found.found, fail_on))


def _exit(found: Replayed, fail_on: FailOn) -> int:
    flips = found.flips.total() if fail_on == "any" else found.flipped(fail_on)
    return 1 if flips else 0


def _replayed(root: Path, new: str, span: tuple[str, str | None], copies: _Copies) -> Replaying:
    settings = read_settings(root)
    text = policy_called(root, settings, new)
    since, until = (None if words is None else _moment(words) for words in span)
    report = _verified(root, settings, copies)
    asked: JsonObject = {"policy": text.digest, "since": span[0], "until": span[1]}
    record_read(root, settings, "policy replay", asked)
    window = Window(entries=report.entries, since=since or 0, until=until or 2**62)
    return Replaying(
        policy=text.digest,
        window=window,
        own_copies=copies.own,
        found=_judged(root, settings, text, window),
    )


def _verified(root: Path, settings: Settings, copies: _Copies) -> Report:
    """Verify the ledger, by copies kept elsewhere or else by what lies beside it.

    Raises:
        Unreadable: it is not verified; the message says why.
    """
    beside = [str((root / settings.ledger_key).with_suffix(".vkey"))], [str(root / settings.checkpoint)]
    keys, checkpoints = copies.keys or beside[0], copies.checkpoints or beside[1]
    with _Bar("verifying entries") as bar:
        report = verify_ledger(
            root / settings.database,
            keys=[one for text in keys for one in read_keys(text)],
            checkpoints=[(file, read_note(file)) for file in checkpoints],
            progress=bar.show,
        )
    if report.verdict != "verified":
        raise Unreadable("; ".join(["the ledger is not verified, and nothing was replayed", *report.lines()]))
    return report


def _judged(root: Path, settings: Settings, text: PolicyText, window: Window) -> Replayed:
    catalog = catalog_of(root, settings)
    with closing(RecordedCalls(ledger_database(root, settings))) as calls:
        replay_ = Replay(
            text,
            catalog.find,
            subjects=calls.people("subject"),
            clients=calls.people("client"),
            runs=calls.history_before(window),
        )
        with no_collection():
            for recorded in _watched(calls, window):
                replay_.judge(recorded)
        return replay_.found


def _watched(calls: RecordedCalls, window: Window) -> Iterator[RecordedJudgement | NotJudged]:
    """Give the calls of a window, and show a person how far it is."""
    total = calls.count(window)
    with _Bar("judging calls") as bar:
        for done, recorded in enumerate(calls.within(window)):
            if done % _EVERY == 0:
                bar.show(done, total)
            yield recorded


class _Bar(Progress):
    """A bar on a terminal, shown when the work takes long."""

    def __init__(self, what: str) -> None:
        console = err()
        super().__init__(console=console, transient=True, disable=not console.is_terminal, auto_refresh=False)
        self._begun, self._what = time.monotonic(), self.add_task(what, total=None, visible=False)

    def show(self, done: int, total: int) -> None:
        """Say how far the work is."""
        visible = time.monotonic() - self._begun > _PATIENCE
        self.update(self._what, completed=done, total=total, visible=visible, refresh=visible)


def _moment(words: str) -> int:
    try:
        return moment_in(words, now())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--since, --until") from error
