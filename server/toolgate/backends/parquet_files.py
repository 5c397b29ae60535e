"""An export of a ledger: which Parquet files belong to it, and how DuckDB sees them as a ledger's tables."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError
from sqlalchemy import Engine

from toolgate.backends.audit_dialects import DIALECTS
from toolgate.backends.audit_duckdb import TABLES
from toolgate.backends.audit_views import views
from toolgate.backends.duckdb_engine import duckdb_engine
from toolgate.backends.parquet_rows import (
    ACTIVATIONS,
    CHECKPOINTS,
    CLAIMS,
    ENDS,
    ENTRIES,
    ERASED_NAMES,
    ERASURES,
    LATE,
    NAMES,
    PAYLOADS,
    RETENTION_RUNS,
    VERSIONS,
)
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.record import Record

MANIFEST: Final = "export.json"
VIEWS_FILE: Final = "views.sql"
FORM: Final = 1
SINGLE: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "pseudonym": ("names.parquet", NAMES),
    "ledger_checkpoint": ("checkpoints.parquet", CHECKPOINTS),
    "late_end": ("late_ends.parquet", LATE),
    "claim": ("claims.parquet", CLAIMS),
    "policy_version": ("policy_versions.parquet", VERSIONS),
    "erasure": ("erasures.parquet", ERASURES),
    "erased_name": ("erased_names.parquet", ERASED_NAMES),
    "retention_run": ("retention_runs.parquet", RETENTION_RUNS),
    "policy_activation": ("policy_activations.parquet", ACTIVATIONS),
}
"""Tables that are written anew each time, each into one file."""


class Part(Record):
    """The entries of a day, or of a share of it, and the values that are kept beside them."""

    day: str
    first: int
    last: int
    whole: bool
    """Nothing can be added to it any more."""

    @property
    def entries(self) -> str:
        """Where its entries are."""
        return f"entries/{self._name}"

    @property
    def payloads(self) -> str:
        """Where the values beside its entries are."""
        return f"payloads/{self._name}"

    @property
    def files(self) -> tuple[str, str]:
        """Both; the latter is not there in an export without values."""
        return self.entries, self.payloads

    @property
    def _name(self) -> str:
        return f"day={self.day}/part-{self.first:012}-{self.last:012}.parquet"


class Manifest(Record):
    """What an export holds: files that are not named here are left over from an export that was stopped."""

    form: int = FORM
    origin: str
    checkpoint: str
    """The signed note under which the export was made; it covers all its entries."""
    size: int
    last_leaf: str
    """The leaf hash of its last entry, in hexadecimal."""
    values: bool
    """Kept values and names are here too."""
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class ParquetExport:
    """A ledger in an export's directory, read through DuckDB; satisfies `LedgerDatabase`."""

    directory: Path

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.directory.name or str(self.directory)

    def exists(self) -> bool:
        """Whether an export was made there."""
        return (self.directory / MANIFEST).is_file()

    def fault(self) -> str | None:
        """Say why what is there cannot be read, or None."""
        try:
            manifest = read_manifest(self.directory)
        except LedgerUnavailable as error:
            return str(error)
        missing = [name for name in _files(manifest) if not (self.directory / name).is_file()]
        return f"{self.name} lacks {missing[0]}: copy the whole export again" if missing else None

    def engine(self) -> Engine:
        """Give connections that see the export as a ledger's tables."""
        manifest = read_manifest(self.directory)
        return duckdb_engine(*tables(manifest, self.directory.absolute()))


def read_manifest(directory: Path) -> Manifest:
    """Read what an export holds.

    Raises:
        LedgerUnavailable: it is not there, or cannot be read.
    """
    file = directory / MANIFEST
    try:
        manifest = Manifest.model_validate(json.loads(file.read_bytes()))
    except FileNotFoundError as error:
        raise LedgerUnavailable(f"there is no export of a ledger in {directory}") from error
    except (OSError, ValueError, ValidationError) as error:
        raise LedgerUnavailable(f"{file} cannot be read as an export's list of files") from error
    if manifest.form != FORM:
        raise LedgerUnavailable(
            f"{file} has form {manifest.form}, this program knows {FORM}; "
            "use the program that wrote it, or export into another directory"
        )
    return manifest


def tables(manifest: Manifest, directory: Path | None) -> list[str]:
    """Give the statements that make an export's files a ledger's tables; without a directory, this one."""
    sources: dict[str, tuple[list[str], Mapping[str, str]]] = {
        "ledger_entry": ([part.entries for part in manifest.parts], {**ENTRIES, **ENDS}),
        "payload": ([part.payloads for part in manifest.parts] if manifest.values else [], PAYLOADS),
    }
    for table, (file, columns) in SINGLE.items():
        sources[table] = [file] if manifest.values or table != "pseudonym" else [], columns
    made = {table: _source(files, columns, directory) for table, (files, columns) in sources.items()}
    return [f"CREATE TEMP VIEW {table} AS {source.strip()}" for table, source in (made | TABLES).items()]


def views_file(manifest: Manifest) -> str:
    """Spell what makes the tables and the auditors' views in a DuckDB of anyone's."""
    ours = (f"CREATE TEMP VIEW {name} AS {view.strip()}" for name, view in views(DIALECTS["duckdb"]).items())
    said = (
        f"-- The ledger {manifest.origin!r}: its first {manifest.size} entries.",
        "-- In this directory: duckdb -init views.sql",
        "SET TimeZone = 'UTC'",
        "SET integer_division = true",
    )
    return ";\n".join(["\n".join(said[:3]), said[3], *tables(manifest, None), *ours]) + ";\n"


def _files(manifest: Manifest) -> Sequence[str]:
    kept = [part.payloads for part in manifest.parts] if manifest.values else []
    single = [file for table, (file, _) in SINGLE.items() if manifest.values or table != "pseudonym"]
    return [*(part.entries for part in manifest.parts), *kept, *single]


def _source(files: Sequence[str], columns: Mapping[str, str], directory: Path | None) -> str:
    if not files:
        nothing = ", ".join(f'CAST(NULL AS {kind}) AS "{name}"' for name, kind in columns.items())
        return f"SELECT {nothing} WHERE FALSE"
    paths = ", ".join(quoted(file if directory is None else str(directory / file)) for file in files)
    return f"SELECT * FROM read_parquet([{paths}], hive_partitioning = false)"  # noqa: S608 - quoted


def quoted(text: str) -> str:
    """Spell a text for SQL."""
    return "'" + text.replace("'", "''") + "'"
