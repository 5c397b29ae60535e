"""`toolgate ledger export --parquet`: the ledger as files that any analytics program reads."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from toolgate.backends.export_parquet import Exported, export_parquet
from toolgate.backends.parquet_files import ParquetExport
from toolgate.cli.audit_read import record_read
from toolgate.cli.output import out, print_json, printable
from toolgate.cli.progress import Bar
from toolgate.core.errors import LedgerUnavailable
from toolgate.parts import ledger_database
from toolgate.settings import read_settings

Parquet = Annotated[
    Path | None, typer.Option("--parquet", help="Write or bring up to date a directory of Parquet files.")
]
NoValues = Annotated[
    bool,
    typer.Option("--no-values", help="With --parquet: leave out values and names, which can be erased."),
]


def to_parquet(root: Path, directory: Path, *, values: bool, as_json: bool) -> None:
    """Bring an export up to the newest checkpoint; that it is made is recorded first."""
    settings = read_settings(root)
    record_read(root, settings, "export parquet", {"directory": str(directory), "values": values})
    try:
        with Bar("entries") as bar:
            engine = ledger_database(root, settings).engine()
            done = export_parquet(engine, directory, values=values, progress=bar.show)
    except OSError as error:
        raise LedgerUnavailable(f"the export into {directory} could not be written: {error}") from error
    _said(done, directory, as_json=as_json)


def _said(done: Exported, directory: Path, *, as_json: bool) -> None:
    if as_json:
        print_json({"directory": str(directory), "name": ParquetExport(directory).name, **vars(done)})
        return
    said = f"{directory} holds the first {done.size} entries; {done.added} are new, in {done.files} files."
    out().print(Text(printable(said)))
