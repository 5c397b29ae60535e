"""`toolgate status`: the gates on the ledger, and whether they run the same."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import typer

from toolgate.backends.gates import Compared, Gate, Running, differing, gates_on
from toolgate.backends.policy_stored import SHORT, StoredPolicies
from toolgate.cli.output import HERE, AsJson, Root, err, print_json, table
from toolgate.core.errors import LedgerUnavailable
from toolgate.core.record import JsonObject
from toolgate.parts import ledger_database
from toolgate.settings import Settings, read_settings

_COLUMNS: Final = (
    "gate",
    "is",
    "address",
    "program",
    "started",
    "last seen",
    "policy",
    "shadow",
    "registry",
    "settings",
    "differs in",
)


def status(root: Root = HERE, as_json: AsJson = False) -> None:  # noqa: FBT002 - a command's flag
    """Show the gates on this ledger, and what each runs. Exits 1 where gates that are alive differ."""
    settings = read_settings(root)
    database = ledger_database(root, settings)
    if not database.exists():
        raise LedgerUnavailable(f"there is no ledger at {database.name}; no gate has served yet")
    gates = gates_on(database, lapse=settings.gate_lapse_seconds)
    activated = _activated(root, settings)
    marks = _marks(gates, activated)
    differ = any(marks.values())
    if as_json:
        said = [_document(gate, marks.get(gate.owner, ())) for gate in gates]
        print_json({"ok": not differ, "activated": activated, "gates": said})
    else:
        table(_title(gates, activated), _COLUMNS, [_row(gate, marks.get(gate.owner, ())) for gate in gates])
        if differ:
            err().print("gates that are alive do not run the same; see docs/how-to/postgresql.md")
    raise typer.Exit(1 if differ else 0)


def _activated(root: Path, settings: Settings) -> str:
    """Give the policy that all gates should run; an empty text in dev mode, where each reads its own disk."""
    if settings.mode == "dev":
        return ""
    enforced = StoredPolicies(ledger_database(root, settings)).standing().enforced
    return "" if enforced is None else enforced.digest


def _marks(gates: Sequence[Gate], activated: str) -> dict[str, tuple[Compared, ...]]:
    """Say what each living gate should run, and does not: as the newest one does, and what is activated."""
    alive = [gate for gate in gates if gate.standing == "alive"]
    if not alive:
        return {}
    newest = alive[-1]
    should = Running(policy=activated or newest.running.policy, catalog=newest.running.catalog, settings="")
    return {gate.owner: differing(gate, should, newest.program) for gate in alive}


def _document(gate: Gate, differs: Sequence[Compared]) -> JsonObject:
    running = gate.running
    return {
        "name": gate.name,
        "standing": gate.standing,
        "address": running.address,
        "program": gate.program,
        "started": _moment(gate.started_at),
        "seen": None if gate.seen_at is None else _moment(gate.seen_at),
        "policy": running.policy,
        "shadow": running.shadow,
        "registry": running.catalog,
        "settings": running.settings,
        "differs": list(differs),
    }


def _row(gate: Gate, differs: Sequence[Compared]) -> list[str]:
    running = gate.running
    digests = (running.policy, running.shadow, running.catalog, running.settings)
    policy, shadow, registry, settings = (digest[:SHORT] for digest in digests)
    seen = "" if gate.seen_at is None else _moment(gate.seen_at)
    at = running.address or "stdio"
    start = [gate.name, gate.standing, at, gate.program, _moment(gate.started_at), seen]
    return [*start, policy, shadow, registry, settings, ", ".join(differs)]


def _title(gates: Sequence[Gate], activated: str) -> str:
    alive = sum(gate.standing == "alive" for gate in gates)
    count = f"{alive} gate{'' if alive == 1 else 's'} alive"
    return f"{count}; activated is policy {activated[:SHORT]}" if activated else count


def _moment(at: int) -> str:
    return datetime.fromtimestamp(at // 1_000_000, UTC).isoformat().replace("+00:00", "Z")
