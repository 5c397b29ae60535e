"""`toolgate policy versions`: which versions were activated, when and by whom, and what is in them."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import typer
from rich.text import Text

from toolgate.backends.policy_stored import SHORT, Change, Standing, StoredPolicies, Version
from toolgate.cli.audit_read import record_read
from toolgate.cli.output import HERE, AsJson, Root, out, print_json, table
from toolgate.core.errors import Fault, Misconfigured
from toolgate.parts import ledger_database
from toolgate.settings import read_settings


def versions(
    show: Annotated[
        str | None, typer.Option("--show", metavar="DIGEST", help="Write out the version that begins so.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where to: a folder that is empty, or new.")
    ] = None,
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """List the versions of the policy, the newest first. Who looks is recorded, as for every ledger query."""
    if (show is None) != (folder is None):
        raise typer.BadParameter("--show and --out go together", param_hint="--show")
    settings = read_settings(root)
    stored = StoredPolicies(ledger_database(root, settings))
    if show is not None and folder is not None:
        _write_out(stored, stored.named(show), folder, as_json=as_json)
        return
    record_read(root, settings, "policy-versions", {})
    standing, found = stored.standing(), stored.versions()
    if as_json:
        print_json([_document(version, standing) for version in found])
    else:
        columns = ("policy", "stands", "since", "by", "cases", "entry", "stored")
        table("Versions of the policy", columns, [_row(version, standing) for version in found])


def _write_out(stored: StoredPolicies, digest: str, folder: Path, *, as_json: bool) -> None:
    files = stored.files(digest)
    _demand_room(folder, files)
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode())
    if as_json:
        print_json({"ok": True, "policy": digest, "files": sorted(files)})
    else:
        said = f"{len(files)} files of policy {digest[:SHORT]} are in {folder}."
        out().print(Text(said, style="green"))


def _demand_room(folder: Path, files: Mapping[str, str]) -> None:
    """Let nothing be overwritten, and nothing be written elsewhere."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise typer.BadParameter(f"{folder} is there, and not empty", param_hint="--out")
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            problem = "a stored file has a name that leads elsewhere"
            raise Misconfigured([Fault("the ledger", "policy versions", problem, "look who wrote it")])


def _row(version: Version, standing: Standing) -> tuple[str, ...]:
    newest = next(iter(version.changes), None)
    stored = f"{version.stored_at:%Y-%m-%d %H:%M:%S}"
    name, stands = version.digest[:SHORT], _stands(version.digest, standing)
    if newest is None:
        return (name, stands, "", "", "", "", stored)
    since = f"{newest.at:%Y-%m-%d %H:%M:%S}"
    cases = "" if newest.cases is None else str(newest.cases)
    cases += ", override" if newest.override else ""
    return (name, stands or newest.status, since, newest.by_whom, cases, str(newest.entry), stored)


def _stands(digest: str, standing: Standing) -> str:
    if standing.enforced is not None and standing.enforced.digest == digest:
        return "ACTIVE"
    return "in shadow" if standing.shadow is not None and standing.shadow.digest == digest else ""


def _document(version: Version, standing: Standing) -> dict[str, Any]:
    return {
        "policy": version.digest,
        "active": standing.enforced is not None and standing.enforced.digest == version.digest,
        "shadow": standing.shadow is not None and standing.shadow.digest == version.digest,
        "stored_at": version.stored_at.isoformat(),
        "changes": [_change(change) for change in version.changes],
    }


def _change(change: Change) -> dict[str, Any]:
    said = vars(change) | {"at": change.at.isoformat()}
    return {name: value for name, value in said.items() if value is not None}
