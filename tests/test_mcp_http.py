"""The gate as an MCP client of either era meets it over Streamable HTTP."""

import json
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError

from tests.serving import (
    AGAIN,
    ENTRY,
    ERAS,
    ERROR,
    KEY,
    REPLAYED,
    Era,
    Served,
    call_body,
    meta_of,
    serving,
    text_of,
)

pytestmark = pytest.mark.anyio
SOME_KEY = "a-key-of-16-chars-or-more"


@pytest.fixture(scope="module")
def gate(starter: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    root = shutil.copytree(starter, tmp_path_factory.mktemp("served") / "root")
    with serving(Path(root)) as served:
        yield served


@pytest.mark.parametrize("era", ERAS)
async def test_each_caller_lists_its_own_tools_in_a_stable_order(gate: Served, era: Era) -> None:
    async with gate.client("member", era) as member, gate.client("reader", era) as reader:
        listed = await member.list_tools()
        assert [tool.name for tool in listed.tools] == ["notes_add", "notes_remove", "notes_search"]
        assert [tool.name for tool in (await reader.list_tools()).tools] == ["notes_search"]
        if era == "auto":
            assert listed.cache_scope == "private"


@pytest.mark.parametrize("era", ERAS)
async def test_a_tool_is_shown_with_title_annotations_and_both_schemas(gate: Served, era: Era) -> None:
    async with gate.client("member", era) as client:
        add, remove, search = (await client.list_tools()).tools

    assert search.annotations is not None
    assert search.annotations.read_only_hint is True
    assert remove.annotations is not None
    assert remove.annotations.destructive_hint is True
    assert add.annotations is not None
    assert (add.annotations.read_only_hint, add.annotations.destructive_hint) == (False, False)
    assert add.title == "Add a note"
    assert add.input_schema["additionalProperties"] is False
    assert "idempotency_key" not in json.dumps(add.input_schema), "no model is asked for a key"
    assert add.output_schema is not None


@pytest.mark.parametrize("era", ERAS)
async def test_an_answer_has_structured_content_and_a_text_rendering_of_it(gate: Served, era: Era) -> None:
    async with gate.client("member", era) as client:
        result = await client.call_tool("notes_search", {"contains": "set up"})

    assert result.structured_content["rows"][0]["text"] == "Toolgate was set up"
    assert json.loads(text_of(result)) == result.structured_content
    assert isinstance(meta_of(result)[ENTRY], int)


@pytest.mark.parametrize("era", ERAS)
async def test_a_repeated_key_is_answered_with_the_first_result(gate: Served, era: Era) -> None:
    key: Any = {KEY: f"{SOME_KEY}-{era}"}
    async with gate.client("member", era) as client:
        first = await client.call_tool("notes_add", {"text": f"once in {era}"}, meta=key)
        second = await client.call_tool("notes_add", {"text": f"once in {era}"}, meta=key)
        other = await client.call_tool("notes_add", {"text": "something else"}, meta=key)

    assert second.structured_content == first.structured_content
    assert meta_of(second)[REPLAYED] is True
    assert "Already applied" in text_of(second)
    assert meta_of(other)[ERROR]["code"] == "idempotency_conflict"


async def test_a_repetition_without_a_key_is_suspected_until_the_caller_insists(gate: Served) -> None:
    again: Any = {AGAIN: True}
    async with gate.client() as client:
        await client.call_tool("notes_add", {"text": "no key"})
        suspected = await client.call_tool("notes_add", {"text": "no key"})
        insisted = await client.call_tool("notes_add", {"text": "no key"}, meta=again)

    assert meta_of(suspected)[ERROR]["code"] == "duplicate_suspected"
    assert not insisted.is_error


@pytest.mark.parametrize("era", ERAS)
async def test_a_refusal_is_a_result_that_says_what_would_be_allowed(gate: Served, era: Era) -> None:
    async with gate.client("member", era) as client:
        result = await client.call_tool("notes_add", {"text": "x" * 501})

    error = meta_of(result)[ERROR]
    assert result.is_error
    assert error["code"] == "forbidden"
    assert error["retryable"] is False
    assert "size of text at most 500 (rule N02)" in text_of(result)
    assert result.structured_content is None


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("tool", ["notes_add", "notes_no_such"])
async def test_a_tool_that_may_not_be_seen_is_answered_like_one_that_is_not_there(
    gate: Served, era: Era, tool: str
) -> None:
    async with gate.client("reader", era) as client:
        with pytest.raises(MCPError) as raised:
            await client.call_tool(tool, {"text": "x"})

    assert raised.value.code == -32602
    assert raised.value.message == f"Unknown tool: {tool}"


async def test_the_key_may_come_in_a_header_and_must_not_differ_from_the_one_in_meta(gate: Served) -> None:
    body = call_body("notes_add", {"text": "by header"})
    first = gate.post(body, Mcp_Name="notes_add", Idempotency_Key=f"{SOME_KEY}-header")
    second = gate.post(body, Mcp_Name="notes_add", Idempotency_Key=f"{SOME_KEY}-header")
    differing = gate.post(
        call_body("notes_add", {"text": "by header"}, **{KEY: SOME_KEY}),
        Mcp_Name="notes_add",
        Idempotency_Key=f"{SOME_KEY}-other",
    )
    odd = gate.post(call_body("notes_add", {"text": "x"}, **{KEY: 7}), Mcp_Name="notes_add")

    assert first.json()["result"]["structuredContent"] == second.json()["result"]["structuredContent"]
    assert second.json()["result"]["_meta"][REPLAYED] is True
    assert differing.json()["error"]["code"] == -32602
    assert odd.json()["error"]["code"] == -32602


async def test_the_common_call_is_answered_in_plain_json_and_a_stream_only_on_request(gate: Served) -> None:
    plain = gate.post(call_body("notes_search", {}))
    streamed = gate.post(call_body("notes_search", {}, progressToken="p1"))

    assert plain.headers["content-type"] == "application/json"
    assert streamed.status_code == 200
    async with gate.client("member", "legacy") as client:
        result = await client.call_tool("notes_search", {})
    assert not result.is_error


async def test_a_key_in_two_headers_is_refused_and_a_made_up_trace_is_not_kept(gate: Served) -> None:
    headers = [("Idempotency-Key", SOME_KEY), ("Idempotency-Key", f"{SOME_KEY}-2")]
    body = call_body("notes_search", {}, traceparent="anything")
    said = dict(gate.post(body).request.headers) | {"content-length": str(len(body))}
    twice = httpx2.post(gate.url, content=body, headers=[*said.items(), *headers])

    assert twice.json()["error"]["code"] == -32602
    assert gate.post(body).json()["result"]["isError"] is False


async def test_a_page_of_tools_names_the_next_and_a_made_up_cursor_is_refused(gate: Served) -> None:
    async with gate.client() as client:
        assert (await client.list_tools()).next_cursor is None
        with pytest.raises(MCPError, match="cursor"):
            await client.list_tools(cursor="not one of ours")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": ""}, 401),
        ({"Authorization": "Bearer nonsense"}, 401),
        ({"Authorization": "Basic bWlhOng="}, 401),
        ({"Host": "evil.example"}, 421),
        ({"Origin": "https://evil.example"}, 403),
        ({"Content-Type": "text/plain"}, 400),
    ],
)
async def test_who_may_not_come_in_is_told_so(gate: Served, headers: dict[str, str], status: int) -> None:
    said = {name.replace("-", "_"): value for name, value in headers.items()}
    assert gate.post(call_body("notes_search", {}), **said).status_code == status


async def test_a_challenge_leads_to_the_metadata_of_the_resource(gate: Served) -> None:
    refused = gate.post(call_body("notes_search", {}), Authorization="")
    challenge = refused.headers["www-authenticate"]
    address = challenge.partition('resource_metadata="')[2].partition('"')[0]
    metadata = httpx2.get(address).json()

    assert metadata["resource"] == gate.url
    assert metadata["bearer_methods_supported"] == ["header"]
    assert "error=" not in challenge, "no token is no wrong token (RFC 6750, section 3.1)"


async def test_a_body_over_the_limit_is_refused_and_the_gate_goes_on(gate: Served) -> None:
    too_large = gate.post(call_body("notes_search", {"contains": "x" * 1_100_000}))
    after = gate.post(call_body("notes_search", {}))

    assert too_large.status_code == 413
    assert after.status_code == 200


async def test_health_and_readiness_say_which_version_is_in_force(gate: Served) -> None:
    base = gate.url.removesuffix("/mcp")
    assert httpx2.get(f"{base}/healthz").text == "ok"
    assert httpx2.get(f"{base}/readyz").json()["ready"] is True


async def test_the_callers_token_and_other_secrets_are_written_nowhere(gate: Served) -> None:
    token = gate.token()
    httpx2.post(gate.url, content=b"{", headers={"Authorization": f"Bearer {token}"})
    gate.post(call_body("notes_search", {"contains": "a"}), Authorization=f"Bearer {token}")

    signature = token.rpartition(".")[2].encode()
    for file in gate.root.rglob("*"):
        if file.is_file():
            assert signature not in file.read_bytes(), file.name


@pytest.mark.parametrize("era", ERAS)
async def test_a_changed_policy_is_taken_up_and_clients_are_told(root: Path, era: Era) -> None:
    told = anyio.Event()

    async def hear(message: object) -> None:
        if "ToolListChanged" in type(getattr(message, "root", message)).__name__:
            told.set()

    with serving(root) as gate:
        rules = gate.root / "policies" / "rules.csv"
        async with gate.client("reader", era, hear) as client, anyio.create_task_group() as group:
            if era == "auto":
                heard = anyio.Event()
                group.start_soon(_listen, client, heard, told)
                await heard.wait()
            assert len((await client.list_tools()).tools) == 1
            broken = rules.read_text("utf-8").replace("allow,", "Allow,")
            good = rules.read_text("utf-8") + "p, N05, allow, reader, home, notes.add, write, -, -, -\n"
            rules.write_text(broken, "utf-8")
            with anyio.move_on_after(1.5):
                await told.wait()
            assert len((await client.list_tools()).tools) == 1, "a broken policy is not taken up"
            rules.write_text(good, "utf-8")
            with anyio.fail_after(10):
                await told.wait()
            assert len((await client.list_tools()).tools) == 2
            group.cancel_scope.cancel()


async def _listen(client: Client, heard: anyio.Event, told: anyio.Event) -> None:
    async with client.listen(tools_list_changed=True) as events:
        heard.set()
        async for _ in events:
            told.set()
