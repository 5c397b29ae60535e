"""`toolgate leases reconcile`: whether the ledger and a vault's audit log tell of the same credentials."""

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic_core import to_jsonable_python
from rich.text import Text

from toolgate.backends.lease_requests import LeaseRequests, ToldRequest
from toolgate.backends.manifest_catalog import ManifestCatalog, Registry
from toolgate.backends.vault.reconciling import Reconciled, Use, Uses, reconciled
from toolgate.cli.audit_read import record_read
from toolgate.cli.output import HERE, AsJson, Root, complain, err, out, print_json, printable
from toolgate.cli.progress import Bar
from toolgate.core.credential_roles import VaultRole
from toolgate.core.errors import LedgerUnavailable, Misconfigured
from toolgate.parts import ledger_database
from toolgate.settings import Settings, read_settings

_EXIT: Final = {"equal": 0, "different": 1, "cannot tell": 2}
_STYLE: Final = {"equal": "green", "different": "bold red", "cannot tell": "yellow"}
_MOST_SHOWN: Final = 100


def reconcile(
    log: Annotated[
        list[Path],
        typer.Argument(
            help="The vault's audit log: all its files; - is standard input.", metavar="AUDIT.log..."
        ),
    ],
    skew: Annotated[
        float, typer.Option(help="Seconds that the vault's clock and ours may be apart.", min=0, max=3600)
    ] = 5,
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """Compare a vault's audit log with the ledger: every credential that was given must be of a call.

    Exits 0 when they tell of the same, 1 when a credential was used outside of any call or the log lacks one
    that the ledger has, 2 when it cannot be told.
    """
    try:
        settings = read_settings(root)
        uses = _uses(root, settings)
        record_read(root, settings, "leases reconcile", {"log": [str(file) for file in log]})
        with Bar("reading the log") as bar:
            requests = LeaseRequests(ledger_database(root, settings))
            found = reconciled(log, requests, uses, skew=timedelta(seconds=skew), progress=bar.show)
    except (Misconfigured, LedgerUnavailable, OSError) as error:
        complain(error, as_json=as_json)
        raise typer.Exit(_EXIT["cannot tell"]) from error
    _print_bad_lines(found)
    if as_json:
        print_json({"verdict": found.verdict, **to_jsonable_python(found)})
    else:
        for number, line in enumerate(_lines(found)):
            out().print(Text(printable(line), style="" if number else _STYLE[found.verdict]))
    raise typer.Exit(_EXIT[found.verdict])


def _uses(root: Path, settings: Settings) -> Uses:
    """Say where credentials are read: where the manifests' roles say so.

    Raises:
        Misconfigured: the manifests cannot be read.
    """
    registry = Registry(root / settings.registry, root)
    try:
        catalog, faults = registry.read()
    finally:
        asyncio.run(registry.aclose())
    if catalog is None:
        raise Misconfigured(faults)
    vault = settings.vault
    if vault is None:
        return Uses(_paths(catalog))
    return Uses(_paths(catalog), token_role=vault.token_role, namespace=vault.namespace)


def _paths(catalog: ManifestCatalog) -> Iterator[str]:
    for tool in catalog.tools:
        for role in (tool.credential, *tool.helpers.values()):
            if isinstance(role, VaultRole):
                yield role.path


def _lines(found: Reconciled) -> Iterator[str]:
    """Tell it to a person: the verdict first."""
    yield {
        "equal": f"EQUAL: {found.matched} requests are in the ledger and in the audit log",
        "different": f"DIFFERENT: {found.outside_count} used outside of any call, "
        f"{found.unlogged_count} in the ledger and not in the audit log",
        "cannot tell": f"CANNOT TELL: {found.doubt}",
    }[found.verdict]
    if found.first is not None and found.last is not None:
        yield f"  the log: {found.lines} lines, {_second(found.first)} to {_second(found.last)} UTC"
    if found.verdict != "equal":
        yield f"  in both: {found.matched}"
    yield from _listed(
        "used outside of any call", [_of_use(use) for use in found.outside], found.outside_count
    )
    unlogged = [_of_told(told) for told in found.unlogged]
    yield from _listed("in the ledger and not in the audit log", unlogged, found.unlogged_count)
    running = [_of_use(use) for use in found.running]
    yield from _listed("of calls that still run; compare again when they have ended", running, len(running))
    if found.at_the_edge:
        yield f"  not compared: {found.at_the_edge} in the ledger, from about when the log begins or ends"
    if found.before:
        yield f"  not compared: {found.before} in the log, from before the ledger began"
    if found.verdict == "different" and found.doubt:
        yield f"  besides: {found.doubt}"


def _listed(what: str, which: list[str], count: int) -> Iterator[str]:
    if not count:
        return
    yield f"  {what}: {count}"
    yield from (f"    {line}" for line in which[:_MOST_SHOWN])
    if count > _MOST_SHOWN:
        yield f"    and {count - _MOST_SHOWN} more"


def _of_use(use: Use) -> str:
    token = f"{use.display_name or 'a token without a name'} {use.accessor[:24]}".rstrip()
    call = f", which says call {use.call_id}" if use.call_id else ""
    return f"{_second(use.at)} {use.path} by {token}{call}, from {use.remote} (request {use.request})"


def _of_told(told: ToldRequest) -> str:
    what = told.path or "a run's token"
    return f"{_second(told.until)} {what}, entry {told.entry}, call {told.call_id} (request {told.request})"


def _print_bad_lines(found: Reconciled) -> None:
    console = err()
    for bad in found.bad[:_MOST_SHOWN]:
        console.print(Text(printable(f"{bad.file}, line {bad.line}: {bad.problem}"), style="yellow"))
    if found.bad_count > _MOST_SHOWN:
        console.print(Text(f"and {found.bad_count - _MOST_SHOWN} more lines", style="yellow"))


def _second(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M:%S}"
