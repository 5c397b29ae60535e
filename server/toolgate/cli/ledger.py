"""`toolgate ledger`: what auditors ask. Who asks is recorded, unless it is a copy that is asked."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, get_args

import typer

from toolgate.backends import audit_queries
from toolgate.backends.audit_dialects import DIALECTS
from toolgate.backends.audit_erased import as_json as as_json_
from toolgate.backends.audit_queries import Filter, Filters, Found, NamedQuery, Shown, ask, check, moment_in
from toolgate.backends.audit_questions import BY_NAME, QUERIES
from toolgate.backends.export_bundle import Answer
from toolgate.backends.ledger_database import LedgerDatabase, SqliteFile
from toolgate.backends.parquet_files import ParquetExport
from toolgate.cli import (
    ledger_erase,
    ledger_export,
    ledger_migrate,
    ledger_proofs,
    ledger_retain,
    ledger_setup,
    ledger_witness,
)
from toolgate.cli.audit_read import record_read
from toolgate.cli.ledger_export import Bundling
from toolgate.cli.output import HERE, AsJson, Root, err, print_json, table
from toolgate.core.record import JsonObject
from toolgate.main import now
from toolgate.parts import ledger_database
from toolgate.settings import read_settings
from toolgate.verifier import rows_as_csv

app = typer.Typer(help="Ask the ledger, and prove what it says.", no_args_is_help=True)

Copy = Annotated[
    Path | None,
    typer.Option(
        "--db", help="A copy of a ledger's database, or an export's directory; reading it is not recorded."
    ),
]
Since = Annotated[str | None, typer.Option(help="From then on: 2026-03-01, or 7d ago.")]
Until = Annotated[str | None, typer.Option(help="Before then.")]
Tenant = Annotated[str | None, typer.Option(help="Only of this tenant.")]
Subject = Annotated[str | None, typer.Option(help="Only of this subject, or pseudonym.")]
Tool = Annotated[str | None, typer.Option(help="Only of this tool.")]
Run = Annotated[str | None, typer.Option(help="Only of this run.")]
Call = Annotated[str | None, typer.Option(help="Only of this call.")]
Value = Annotated[str | None, typer.Option(help="What arguments must hold.")]
Hours = Annotated[str | None, typer.Option(help="Usual hours, UTC: 08-18, or 22-06.")]
_HOURS: Final = re.compile(r"([01]\d|2[0-3])-([01]\d|2[0-4])")


@app.command()
def query(  # noqa: PLR0913, PLR0917 - the options of one command
    name: Annotated[str | None, typer.Argument(help="Which; without it, all are listed.")] = None,
    since: Since = None,
    until: Until = None,
    tenant: Tenant = None,
    subject: Subject = None,
    tool: Tool = None,
    run: Run = None,
    call: Call = None,
    value: Value = None,
    hours: Hours = None,
    most: Annotated[int, typer.Option(help="How many rows.", min=1, max=1_000_000)] = 100,
    database: Copy = None,
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, for spreadsheets.")] = False,  # noqa: FBT002
) -> None:
    """Ask a named question."""
    if name is None:
        _list_queries(as_json=as_json)
        return
    said = _given(
        since=since,
        until=until,
        tenant=tenant,
        subject=subject,
        tool=tool,
        run=run,
        call=call,
        value=value,
        hours=hours,
    )
    found = _answer(_query(name), said, most=most, database=database, root=root)
    if as_json:
        print_json([_labelled(found, row) for row in found.rows])
    elif as_csv:
        _print_csv(found)
    else:
        table(_query(name).question, found.columns, [[_cell(value) for value in row] for row in found.rows])
    if found.more:
        err().print(f"there are more than {most}; narrow it, or say --most")


@app.command()
def show(
    entry: Annotated[int, typer.Argument(help="The entry's number.", min=0)],
    database: Copy = None,
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """Show one entry: its clear names, what was kept of values, and whether that is what it commits to."""
    shown = audit_queries.show(_readable(database, root, "show", {"entry": entry}), entry)
    if as_json:
        committed = [vars(value) for value in shown.committed]
        said = {"entry": entry, "body": shown.body, "names": shown.names, "committed": committed}
        print_json(said | ({"gone": as_json_(shown.gone)} if shown.gone else {}))
        return
    table(f"Entry {entry}", ("field", "value"), _rows(shown))


@app.command()
def bundle(  # noqa: PLR0913, PLR0917 - the options of one command
    name: Annotated[str, typer.Argument(help="Which question.", metavar="QUERY")],
    file: Annotated[Path, typer.Option("--out", help="The zip to write.")],
    old: Annotated[
        Path | None, typer.Option("--old", help="A checkpoint from before, to show what was kept since.")
    ] = None,
    no_values: Annotated[  # noqa: FBT002 - a command's flag
        bool, typer.Option("--no-values", help="Leave out the values that entries commit to.")
    ] = False,
    since: Since = None,
    until: Until = None,
    tenant: Tenant = None,
    subject: Subject = None,
    tool: Tool = None,
    run: Run = None,
    call: Call = None,
    value: Value = None,
    hours: Hours = None,
    most: Annotated[int, typer.Option(help="How many rows.", min=1, max=50_000)] = 100,
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """Answer a named question in one zip, with what proves it to an auditor on another machine."""
    said = _given(
        since=since,
        until=until,
        tenant=tenant,
        subject=subject,
        tool=tool,
        run=run,
        call=call,
        value=value,
        hours=hours,
    )
    named = _query(name)
    asked = _asked(named, said)
    bundling = Bundling(root, file, old, not no_values)
    filters = _recorded(said)
    older = bundling.record(name, {"most": most, **filters})
    database = ledger_database(root, read_settings(root))
    found = ask(database, named, asked, most=most)
    sql = named.statement(asked, DIALECTS[database.engine().dialect.name])
    answer = Answer(name=name, question=named.question, sql=sql, filters=filters, found=found)
    bundling.write(answer, older, as_json=as_json)


app.command("setup")(ledger_setup.setup)
app.command("export")(ledger_export.export)
app.command("prove")(ledger_proofs.prove)
app.command("verify")(ledger_proofs.verify)
app.command("erase")(ledger_erase.erase)
app.command("recover")(ledger_proofs.recover)
app.command("retain")(ledger_retain.retain)
app.command("rotate-key")(ledger_proofs.rotate_key)
app.command("witness")(ledger_witness.witness)
app.command("witness-key")(ledger_witness.witness_key)
app.command("migrate")(ledger_migrate.migrate)


def _query(name: str) -> NamedQuery:
    if name not in BY_NAME:
        raise typer.BadParameter(f"there is no query {name!r}; see: toolgate ledger query", param_hint="NAME")
    return BY_NAME[name]


def _answer(
    named: NamedQuery, said: dict[Filter, str], *, most: int, database: Path | None, root: Path
) -> Found:
    asked = _asked(named, said)
    readable = _readable(database, root, named.name, {"most": most, **_recorded(said)})
    return ask(readable, named, asked, most=most)


def _given(**said: str | None) -> dict[Filter, str]:
    """Give the filters that were said."""
    return {name: text for name in get_args(Filter) if (text := said[name]) is not None}


def _recorded(said: dict[Filter, str]) -> JsonObject:
    """Spell filters for an entry."""
    return {str(name): text for name, text in said.items()}


def _asked(named: NamedQuery, said: dict[Filter, str]) -> Filters:
    """Read the filters of a question, and see that it takes them."""
    if fault := named.fault_in(said):
        raise typer.BadParameter(fault, param_hint="NAME")
    return {name: _READ.get(name, str)(text) for name, text in said.items()}


def _readable(database: Path | None, root: Path, named: str, asked: JsonObject) -> LedgerDatabase:
    """Give the database to read; the deployment's own only when the reading has been recorded."""
    if database is not None:
        copy = ParquetExport(database) if database.is_dir() else SqliteFile(database)
        check(copy)
        return copy
    settings = read_settings(root)
    record_read(root, settings, named, asked)
    return ledger_database(root, settings)


def _moment(text: str) -> int:
    try:
        return moment_in(text, now())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--since, --until") from error


def _hours(text: str) -> str:
    hours = _HOURS.fullmatch(text)
    if hours is None or hours[1] == hours[2]:
        raise typer.BadParameter(
            f"{text!r} are no hours; say 08-18, or 22-06 for those over midnight", param_hint="--hours"
        )
    return text


_READ: Final[dict[Filter, Callable[[str], str | int]]] = {
    "since": _moment,
    "until": _moment,
    "hours": _hours,
}


def _list_queries(*, as_json: bool) -> None:
    listed = [(named.name, named.question, sorted(named.filters)) for named in QUERIES]
    if as_json:
        print_json([{"name": name, "question": text, "filters": takes} for name, text, takes in listed])
        return
    table("Queries", ("name", "question"), [(name, text) for name, text, _ in listed])


def _labelled(found: Found, row: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(found.columns, row, strict=True))


def _print_csv(found: Found) -> None:
    sys.stdout.write(rows_as_csv(found.columns, found.rows))


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def _rows(shown: Shown) -> list[tuple[str, str]]:
    rows = [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in shown.body.items()
    ]
    rows += [(pseudonym, f"is {clear}") for pseudonym, clear in shown.names.items()]
    gone = {one.what: f"{one}" for one in shown.gone}
    rows += [(name, said) for name, said in gone.items() if name not in shown.body]
    for value in shown.committed:
        kept = (
            gone.get(value.field, "not kept")
            if value.opens is None
            else json.dumps(value.value, ensure_ascii=False)
        )
        opens = {None: "", True: " (as committed)", False: " (NOT what the entry commits to)"}[value.opens]
        rows.append((f"{value.field}, the value", kept + opens))
    return rows
