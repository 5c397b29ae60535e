"""`toolgate calls`: what was recorded."""

import json
from pathlib import Path
from typing import Annotated

import typer

from toolgate.backends.sql_records import RecordedCall, SqlRecords
from toolgate.cli.output import HERE, AsJson, Root, print_json, table
from toolgate.core.errors import NothingRecorded
from toolgate.settings import read_settings

app = typer.Typer(help="Look at recorded calls.", no_args_is_help=True)


@app.command("list")
def list_(
    most: Annotated[int, typer.Option("--most", help="How many.", min=1, max=10_000)] = 20,
    subject: Annotated[str | None, typer.Option(help="Only of this subject.")] = None,
    tool: Annotated[str | None, typer.Option(help="Only of this tool.")] = None,
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """Give the newest calls, newest first."""
    calls = _records(root).calls(most=most, subject=subject, tool=tool)
    if as_json:
        print_json([vars(call) | {"at": call.at.isoformat()} for call in calls])
        return
    columns = ("entry", "when (UTC)", "who", "tool", "end", "call")
    table("Recorded calls, newest first", columns, [_row(call) for call in calls])


@app.command()
def show(
    call_id: Annotated[str, typer.Argument(help="The call's id.", metavar="CALL")],
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """Give every entry of one call, oldest first, with what was captured of its values."""
    entries = _records(root).entries(call_id)
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


def _records(root: Path) -> SqlRecords:
    return SqlRecords(root / read_settings(root).database)


def _row(call: RecordedCall) -> tuple[str, ...]:
    entry = f"{call.entry}" if call.end_entry is None else f"{call.entry}-{call.end_entry}"
    when = f"{call.at:%Y-%m-%d %H:%M:%S}"
    return entry, when, f"{call.subject} ({call.tenant})", call.tool, call.end, call.call_id
