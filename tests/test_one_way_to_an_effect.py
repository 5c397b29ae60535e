"""There is one way to an adapter's operation, and it goes through `Gateway.carry_out`."""

import ast
from pathlib import Path

import pytest

from tests.gate_on_scripted_system import rig
from toolgate.backends.sql_records import SqlRecords

SERVER = Path(__file__).resolve().parents[1] / "server" / "toolgate"
pytestmark = pytest.mark.anyio


def _who_reads(attribute: str) -> set[str]:
    """Give the modules in which something's `attribute` is read."""
    found: set[str] = set()
    for file in SERVER.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == attribute and isinstance(node.ctx, ast.Load):
                found.add(file.relative_to(SERVER).as_posix())
    return found


def test_only_the_runner_of_adapters_reaches_an_operation() -> None:
    assert _who_reads("run_by") == {"backends/adapter_tools.py"}


def test_only_the_gateway_asks_the_runner_the_vault_and_the_ledger_to_act() -> None:
    for verb in ("lend", "take_back"):
        assert _calls_of("vault", verb) == {"core/gateway.py", "core/reconcile.py"}, verb
    assert _calls_of("tools", "look_up") == {"core/reconcile.py"}, "which sends nothing: see adapter_tools"
    for act in ("tools.run", "ledger.open", "ledger.close", "ledger.refuse"):
        part, verb = act.split(".")
        assert _calls_of(part, verb) == {"core/gateway.py"}, act


def test_web_and_command_line_call_the_gateway_and_nothing_behind_it() -> None:
    assert _who_reads("carry_out") == {"web/mcp_server.py", "cli/call.py"}
    assert _who_reads("_carry_through") == {"core/gateway.py"}


def _calls_of(part: str, verb: str) -> set[str]:
    found: set[str] = set()
    for file in SERVER.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not (isinstance(node, ast.Attribute) and node.attr == verb):
                continue
            owner = node.value
            if isinstance(owner, ast.Attribute) and owner.attr == part:
                found.add(file.relative_to(SERVER).as_posix())
    return found


async def test_whatever_the_system_was_asked_has_an_intent_in_the_ledger(tmp_path: Path) -> None:
    async with rig(tmp_path) as gate:
        for tool in ("desk.read", "desk.write", "desk_destroy", "desk.none"):
            await gate.call(tool)
        asked = gate.desk.keys
    calls = SqlRecords(tmp_path / "ledger.db").calls(most=100, subject=None, tool=None)
    assert len(asked) == 3
    assert set(asked) == {call.call_id for call in calls if call.end == "done"}
