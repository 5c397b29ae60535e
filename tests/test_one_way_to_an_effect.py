"""There is one way to an adapter's operation, and it goes through `Gateway.carry_out`."""

import ast
from dataclasses import replace
from pathlib import Path

import mcp_types as t
import pytest
from mcp import Client
from mcp_types.methods import SPEC_CLIENT_METHODS

from tests.gate_on_scripted_system import ANN, Amount, Desk, Rig, rig
from toolgate.adapter import Context, Message, Messages, Operation, Text
from toolgate.backends.ledger_database import SqliteFile
from toolgate.backends.manifest_catalog import ManifestCatalog
from toolgate.backends.sql_records import SqlRecords
from toolgate.core.arguments import Schema
from toolgate.core.gateway import Gateway
from toolgate.core.ports import Rulebook
from toolgate.core.uri_template import UriTemplate
from toolgate.main import new_call_id, now
from toolgate.web.asked import Edge
from toolgate.web.mcp_server import McpServer
from toolgate.web.request_state import RequestStates

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


def test_at_the_edge_calls_are_made_in_two_places_which_hand_them_to_the_gateway() -> None:
    outside = ("web/", "cli/")
    assert {module for module in _who_makes("Call") if module.startswith(outside)} == _who_reads("carry_out")
    assert _read_of_gateways("web/resources.py") == {"rulebook", "tools_for"}
    assert _read_of_gateways("web/prompts.py") == {"rulebook", "tools_for"}
    assert _read_of_gateways("web/completions.py") == {"tools_for"}


def _who_makes(name: str) -> set[str]:
    """Give the modules that call something by `name`."""
    found: set[str] = set()
    for file in SERVER.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
                found.add(file.relative_to(SERVER).as_posix())
    return found


def _read_of_gateways(module: str) -> set[str]:
    """Give what a module uses of `self.gateway`."""
    return {
        node.attr
        for node in ast.walk(ast.parse((SERVER / module).read_text("utf-8")))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "gateway"
    }


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
    calls = SqlRecords(SqliteFile(tmp_path / "ledger.db")).calls(most=100, subject=None, tool=None)
    assert len(asked) == 3
    assert set(asked) == {call.call_id for call in calls if call.end == "done"}


ACTING = {"tools/call", "resources/read", "prompts/get"}
"""The methods that lead to a system."""
LOOKING = {
    "initialize",
    "ping",
    "server/discover",
    "subscriptions/listen",
    "tools/list",
    "resources/list",
    "resources/templates/list",
    "prompts/list",
    "completion/complete",
}


async def test_each_method_of_mcp_leads_through_the_ledger_or_to_no_system(tmp_path: Path) -> None:
    async with rig(tmp_path) as gate:
        server = McpServer(_offering(gate), _edge()).server
        served = {method for method in SPEC_CLIENT_METHODS if server.get_request_handler(method)}
        assert served | {"initialize"} == ACTING | LOOKING
        async with Client(server) as client:
            await client.list_tools()
            await client.list_resources()
            await client.list_resource_templates()
            await client.list_prompts()
            await client.complete(t.PromptReference(name="desk_tell"), {"name": "amount", "value": "1"})
            assert gate.desk.keys == []
            await client.call_tool("desk_read", {"amount": 1})
            await client.read_resource("desk://2")
            await client.get_prompt("desk_tell", {"amount": "3"})
            asked = gate.desk.keys
    calls = SqlRecords(SqliteFile(tmp_path / "ledger.db")).calls(most=100, subject=None, tool=None)
    assert len(asked) == len(ACTING)
    assert sorted(asked) == sorted(call.call_id for call in calls if call.end == "done")


def _edge() -> Edge:
    return Edge(
        caller_of=lambda _: ANN,
        new_id=new_call_id,
        now=now,
        page_size=10,
        states=RequestStates(bytes(32), now),
    )


def _offering(gate: Rig) -> Gateway:
    """Give the gate with a tool that is a resource, too, and one that is a prompt."""

    async def tell(amount: Amount, context: Context[Desk]) -> Messages:
        await gate.desk.work(amount, context)
        return Messages(messages=(Message(role="user", content=Text(text="Done.")),))

    read = replace(gate.tools["desk.read"], resource=UriTemplate("desk://{amount}"))
    operation = Operation(
        name="tell", description="Tell.", input_model=Amount, output_model=Messages, run=tell
    )
    prompt = replace(
        gate.tools["desk.read"],
        name="desk.tell",
        wire_name="desk_tell",
        prompt=True,
        output=Schema(Messages.model_json_schema(mode="serialization")),
        run_by=operation,
    )
    policy = gate.gateway.rulebook().policy
    book = Rulebook(catalog=ManifestCatalog([read, prompt], "c" * 64), policy=policy)
    return replace(gate.gateway, rulebook=lambda: book)
