"""Resources as clients of either era meet them: to read one is a call, with its rules and its entry."""

import json
import shutil
from base64 import b64encode
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import mcp_types as t
import pytest
from mcp.shared.exceptions import MCPError

from tests.library import LAST_BOOK, PIXEL, installed_in, library_in
from tests.serving import ERAS, Era, Served, serving
from toolgate.backends.ledger_database import SqliteFile
from toolgate.backends.sql_records import SqlRecords

pytestmark = pytest.mark.anyio
CALL_ID, ENTRY, KEY, REPLAYED = (
    f"dev.toolgate/{name}" for name in ("callId", "entry", "idempotencyKey", "replayed")
)
REFUSED = -31_000


@pytest.fixture(scope="module")
def gate(starter: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    folder = tmp_path_factory.mktemp("library")
    root = library_in(Path(shutil.copytree(starter, folder / "root")))
    with serving(root, installed_in(folder / "site")) as served:
        yield served


@pytest.mark.parametrize("era", ERAS)
async def test_each_caller_lists_the_addresses_of_its_own_tools(gate: Served, era: Era) -> None:
    async with gate.client("member", era) as member, gate.client("clerk", era) as clerk:
        fixed = await member.list_resources()
        templates = await member.list_resource_templates()
        of_the_clerk = await clerk.list_resources()

    assert [one.uri for one in fixed.resources] == ["library://newest", "library://prices", "notes://newest"]
    assert [one.uri for one in of_the_clerk.resources] == [
        "library://newest",
        "library://prices",
        "library://staff",
    ]
    assert [one.uri_template for one in templates.resource_templates] == [
        "library://books/{number}/cover",
        "library://titles/{title}?lent={lent}",
        "library://books/{number}",
    ]
    *_, book = templates.resource_templates
    assert (book.name, book.title, book.mime_type) == ("library_read", "A book", "application/json")
    assert book.description == "Read about one book."
    if era == "auto":
        assert (fixed.cache_scope, templates.cache_scope) == ("private", "private")


@pytest.mark.parametrize("era", ERAS)
async def test_lists_are_paged_and_a_made_up_cursor_is_refused(gate: Served, era: Era) -> None:
    async with gate.client("member", era) as client:
        with pytest.raises(MCPError, match="cursor"):
            await client.list_resources(cursor="not one of ours")
        with pytest.raises(MCPError, match="cursor"):
            await client.list_resource_templates(cursor="not one of ours")


@pytest.mark.parametrize("era", ERAS)
async def test_reading_one_gives_what_a_call_of_its_tool_gives(gate: Served, era: Era) -> None:
    async with gate.client("member", era) as client:
        read = await client.read_resource("library://books/7")
        called = await client.call_tool("library_read", {"number": 7})
        fixed = await client.read_resource("library://newest")
        titled = await client.read_resource("library://titles/War%20%26%20Peace%2F1?lent=true")

    (contents,) = read.contents
    assert isinstance(contents, t.TextResourceContents)
    assert (contents.uri, contents.mime_type) == ("library://books/7", "application/json")
    assert json.loads(contents.text) == called.structured_content
    assert _book(fixed)["title"] == "The newest"
    assert _book(titled) == {"number": 1, "title": "War & Peace/1", "place": "lent"}
    if era == "auto":
        assert (read.ttl_ms, read.cache_scope) == (0, "private"), "the next reading is judged, too"


@pytest.mark.parametrize("era", ERAS)
async def test_a_reading_is_recorded_like_a_call(gate: Served, era: Era) -> None:
    async with gate.client("member", era) as client:
        read = await client.read_resource("library://books/8")
        with pytest.raises(MCPError):
            await client.read_resource("library://books/13")

    refused, done, *_ = SqlRecords(SqliteFile(gate.root / "data" / "toolgate.db")).calls(
        most=10, subject="mia", tool="library.read"
    )
    assert (done.end, refused.end) == ("done", "forbidden")
    assert (read.meta or {})[CALL_ID] == done.call_id


@pytest.mark.parametrize("era", ERAS)
async def test_the_policy_judges_a_reading_by_its_arguments(gate: Served, era: Era) -> None:
    async with gate.client("member", era) as client:
        with pytest.raises(MCPError) as raised:
            await client.read_resource("library://books/13")
        masked = await client.read_resource("library://titles/secret?lent=false")

    data = _data(raised.value)
    assert raised.value.code == REFUSED
    assert (data["code"], data["retryable"], data["uri"]) == ("forbidden", False, "library://books/13")
    assert "rule B02" in raised.value.message
    assert isinstance(data["entry"], int)
    assert _book(masked)["place"] == "[masked]"
    assert (masked.meta or {})["dev.toolgate/hidden"] == ["mask=place"]


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    "uri",
    [
        "library://staff",
        "library://nobody",
        "library://books/7/pages",
        "library_read",
        "notes_search",
        "notes.search",
        f"library://books/{LAST_BOOK + 1}",
        "library://titles/" + ":" * 9_000,
    ],
)
async def test_what_may_not_be_seen_is_not_found_like_what_is_not_there(
    gate: Served, era: Era, uri: str
) -> None:
    async with gate.client("member", era) as client:
        with pytest.raises(MCPError) as raised:
            await client.read_resource(uri)

    assert raised.value.code == (-32602 if era == "auto" else -32002)
    assert raised.value.message == "Resource not found"
    assert _data(raised.value).keys() == {"uri", ENTRY, CALL_ID, REPLAYED}
    assert _data(raised.value)["uri"] == uri


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("library://books/07", "number"),
        ("library://books/0", "number"),
        ("library://books/seven", "number"),
        ("library://titles/x?lent=True", "lent"),
        ("library://titles/" + "x" * 21 + "?lent=true", "title"),
    ],
)
async def test_an_argument_that_breaks_its_schema_is_refused_before_the_system_is_asked(
    gate: Served, era: Era, uri: str, problem: str
) -> None:
    async with gate.client("member", era) as client:
        with pytest.raises(MCPError) as raised:
            await client.read_resource(uri)

    assert raised.value.code == -32602
    assert _data(raised.value)["code"] == "bad_arguments"
    assert f"{problem}: " in raised.value.message


@pytest.mark.parametrize("era", ERAS)
async def test_a_failure_says_whether_asking_again_may_help(gate: Served, era: Era) -> None:
    async with gate.client("member", era) as client:
        with pytest.raises(MCPError) as raised:
            await client.read_resource(f"library://books/{LAST_BOOK}")

    data = _data(raised.value)
    assert raised.value.code == -32603
    assert (data["code"], data["retryable"]) == ("lent", True)
    assert data["docs"] == "docs/reference/outcomes.md#lent"


@pytest.mark.parametrize("era", ERAS)
async def test_content_keeps_its_own_types(gate: Served, era: Era) -> None:
    uri = "library://books/7/cover"
    async with gate.client("member", era) as client:
        read = await client.read_resource(uri)

    image, text, sound, inside, link = read.contents
    assert image == t.BlobResourceContents(uri=uri, mime_type="image/png", blob=b64encode(PIXEL).decode())
    assert text == t.TextResourceContents(uri=uri, mime_type="text/plain", text="A plain cover.")
    assert isinstance(sound, t.BlobResourceContents)
    assert sound.mime_type == "audio/wav"
    assert inside == t.TextResourceContents(uri="library://books/7", mime_type="text/plain", text="the book")
    assert link == t.TextResourceContents(uri=uri, mime_type="text/uri-list", text="library://books/7")


@pytest.mark.parametrize("era", ERAS)
async def test_the_same_key_gives_the_same_reading(gate: Served, era: Era) -> None:
    key = cast("Any", {KEY: f"a-reading-of-one-book-{era}"})
    async with gate.client("member", era) as client:
        first = await client.read_resource("library://books/3", meta=key)
        again = await client.read_resource("library://books/3", meta=key)

    assert again.contents == first.contents
    assert ((first.meta or {})[REPLAYED], (again.meta or {})[REPLAYED]) == (False, True)


async def test_a_token_that_lacks_a_scope_is_told_so_by_status_403(gate: Served) -> None:
    uri = "library://prices"
    refused = gate.post(_request("resources/read", uri=uri), Mcp_Method="resources/read", Mcp_Name=uri)

    assert refused.status_code == 403
    assert 'error="insufficient_scope"' in refused.headers["www-authenticate"]
    assert "prices:read" in refused.headers["www-authenticate"]


async def test_the_name_in_the_head_must_be_the_address_in_the_body(gate: Served) -> None:
    uri = "library://books/7"
    good = gate.post(_request("resources/read", uri=uri), Mcp_Method="resources/read", Mcp_Name=uri)
    bad = gate.post(
        _request("resources/read", uri=uri), Mcp_Method="resources/read", Mcp_Name="library://books/8"
    )

    assert good.json()["result"]["contents"][0]["uri"] == uri
    assert (bad.status_code, bad.json()["error"]["code"]) == (400, -32020)


@pytest.mark.filterwarnings("ignore:resources/subscribe is removed")
@pytest.mark.parametrize("era", ERAS)
async def test_what_is_offered_is_said_at_the_handshake_and_nothing_can_be_watched(
    gate: Served, era: Era
) -> None:
    async with gate.client("member", era) as client:
        said = client.server_capabilities
        assert said is not None
        assert said.resources == t.ResourcesCapability(subscribe=False, list_changed=True)
        assert said.prompts == t.PromptsCapability(list_changed=True)
        assert said.completions == t.CompletionsCapability()
        if era == "legacy":
            with pytest.raises(MCPError, match="not found"):
                await client.session.subscribe_resource("library://newest")  # pyright: ignore[reportDeprecated]


async def test_a_stream_of_announcements_does_not_promise_single_resources(gate: Served) -> None:
    async with (
        gate.client("member") as client,
        client.listen(resources_list_changed=True, resource_subscriptions=["library://newest"]) as events,
    ):
        assert events.honored == t.SubscriptionFilter(resources_list_changed=True)


def _book(read: t.ReadResourceResult) -> dict[str, Any]:
    (contents,) = read.contents
    assert isinstance(contents, t.TextResourceContents)
    book: dict[str, Any] = json.loads(contents.text)
    return book


def _data(error: MCPError) -> dict[str, Any]:
    data: dict[str, Any] = error.error.data
    return data


def _request(method: str, **params: object) -> bytes:
    meta: dict[str, object] = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    said: dict[str, object] = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": method,
        "params": params | {"_meta": meta},
    }
    return json.dumps(said).encode()
