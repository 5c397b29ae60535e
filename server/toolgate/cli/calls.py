"""`toolgate calls`: what was recorded, and what became of calls whose outcome is unknown."""

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from toolgate.backends.owners import is_gone
from toolgate.backends.sql_records import DoubtfulCall, RecordedCall, SqlRecords
from toolgate.cli.audit_read import record_read
from toolgate.cli.output import HERE, AsJson, Root, print_json, table
from toolgate.cli.resolutions import reconcile, resolve
from toolgate.core.errors import NothingRecorded
from toolgate.core.record import JsonObject
from toolgate.main import now
from toolgate.parts import ledger_database
from toolgate.settings import Settings, read_settings

app = typer.Typer(help="Look at recorded calls, and settle unknown ones.", no_args_is_help=True)
app.command()(reconcile)
app.command()(resolve)


@app.command("list")
def list_(
    unknown: Annotated[  # noqa: FBT002 - a command's flag
        bool, typer.Option("--unknown", help="Only those of which nobody knows what became, oldest first.")
    ] = False,
    most: Annotated[int, typer.Option("--most", help="How many.", min=1, max=10_000)] = 20,
    subject: Annotated[str | None, typer.Option(help="Only of this subject.")] = None,
    tool: Annotated[str | None, typer.Option(help="Only of this tool.")] = None,
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """Give the newest calls, newest first."""
    settings = read_settings(root)
    records = SqlRecords(ledger_database(root, settings))
    asked: JsonObject = {"unknown": unknown, "most": most, "subject": subject, "tool": tool}
    record_read(root, settings, "calls list", asked)
    if unknown:
        _print_doubtful(_doubtful(records, root, settings, most, subject, tool), as_json=as_json)
    else:
        _print_calls(records.calls(most=most, subject=subject, tool=tool), as_json=as_json)


@app.command()
def show(
    call_id: Annotated[str, typer.Argument(help="The call's id.", metavar="CALL")],
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """Give every entry of one call, oldest first, with what was captured of its values."""
    settings = read_settings(root)
    records = SqlRecords(ledger_database(root, settings))
    record_read(root, settings, "calls show", {"call": call_id})
    entries = records.entries(call_id)
    if not entries:
        raise NothingRecorded(f"no call {call_id} is recorded; see: toolgate calls list")
    if as_json:
        print_json(entries)
        return
    for entry in entries:
        rows = [
            (name, value if isinstance(value, str) else json.dumps(value)) for name, value in entry.items()
        ]
        table(f"Entry {entry['entry']}", ("field", "value"), rows)


def _doubtful(
    records: SqlRecords, root: Path, settings: Settings, most: int, subject: str | None, tool: str | None
) -> list[DoubtfulCall]:
    """Give unknown calls, and those whose process is gone though nobody has noted it yet."""
    owners = Path(f"{root / settings.database}.writers")
    lapsed = now().timestamp() * 1_000_000
    return records.doubtful(
        most=most,
        subject=subject,
        tool=tool,
        is_lost=lambda owner, until: until <= lapsed or is_gone(owners, owner),
    )


def _print_calls(calls: list[RecordedCall], *, as_json: bool) -> None:
    if as_json:
        print_json([_plain(asdict(call)) for call in calls])
        return
    columns = ("entry", "when (UTC)", "who", "tool", "end", "call")
    table("Recorded calls, newest first", columns, [_row(call) for call in calls])


def _print_doubtful(calls: list[DoubtfulCall], *, as_json: bool) -> None:
    ages = [round((now() - call.opened_at).total_seconds()) for call in calls]
    if as_json:
        aged = zip(calls, ages, strict=True)
        print_json([_plain(asdict(call)) | {"age_s": age} for call, age in aged])
        return
    columns = ("call", "who", "tool", "state", "age (s)", "asking is conclusive from (UTC)")
    rows = [
        (
            call.call_id,
            f"{call.subject} ({call.tenant})",
            call.tool,
            f"{call.state}: {call.why}" if call.why else call.state,
            f"{age}",
            "not known yet" if call.conclusive_from is None else _second(call.conclusive_from),
        )
        for call, age in zip(calls, ages, strict=True)
    ]
    table("Calls whose outcome is unknown, oldest first", columns, rows)


def _row(call: RecordedCall) -> tuple[str, ...]:
    entry = f"{call.entry}" if call.end_entry is None else f"{call.entry}-{call.end_entry}"
    who = f"{call.subject} ({call.tenant})"
    return entry, _second(call.at), who, call.tool, call.end, call.call_id


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    """Spell moments as JSON does."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value for name, value in fields.items()
    }


def _second(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M:%S}"
