"""Prompts and completions as clients of either era meet them: to get a prompt is a call, like any other."""

import shutil
from base64 import b64encode
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import anyio
import mcp_types as t
import pytest
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError

from tests.library import PIXEL, installed_in, library_in
from tests.serving import ERAS, Era, Served, serving
from toolgate.backends.ledger_database import SqliteFile
from toolgate.backends.sql_records import SqlRecords

pytestmark = pytest.mark.anyio
CALL_ID, ENTRY, REPLAYED = (f"dev.toolgate/{name}" for name in ("callId", "entry", "replayed"))
REFUSED = -31_000
Hear = Callable[[object], Awaitable[None]]


@pytest.fixture(scope="module")
def gate(starter: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    folder = tmp_path_factory.mktemp("library")
    root = library_in(Path(shutil.copytree(starter, folder / "root")))
    with serving(root, installed_in(folder / "site")) as served:
        yield served


@pytest.mark.parametrize("era", ERAS)
async def test_each_caller_lists_its_own_prompts_and_no_tool_among_them(gate: Served, era: Era) -> None:
    async with gate.client("member", era) as member, gate.client("clerk", era) as clerk:
        listed = await member.list_prompts()
        of_the_clerk = await clerk.list_prompts()
        tools = await member.list_tools()
        with pytest.raises(MCPError, match="cursor"):
            await member.list_prompts(cursor="not one of ours")

    assert [one.name for one in listed.prompts] == ["library_recommend", "library_suggest"]
    assert "library_accounts" in [one.name for one in of_the_clerk.prompts]
    assert not {one.name for one in tools.tools} & {one.name for one in listed.prompts}
    suggest = listed.prompts[1]
    assert (suggest.title, suggest.description) == ("Suggest a book", "Ask for a book to read.")
    assert [(one.name, one.required) for one in suggest.arguments or []] == [
        ("mood", True),
        ("about", False),
        ("pages", False),
        ("lentToo", False),
    ]
    mood, *_ = suggest.arguments or []
    assert (mood.title, mood.description) == ("Mood", "What it should feel like.")
    if era == "auto":
        assert listed.cache_scope == "private"


@pytest.mark.parametrize("era", ERAS)
async def test_getting_one_gives_its_messages_and_is_recorded_like_a_call(gate: Served, era: Era) -> None:
    arguments = {"mood": "grim", "about": "clocks", "pages": "90", "lentToo": "true"}
    async with gate.client("member", era) as client:
        got = await client.get_prompt("library_suggest", arguments)

    text, inside, image = [message.content for message in got.messages]
    assert [message.role for message in got.messages] == ["user", "assistant", "user"]
    assert text == t.TextContent(text="Find me a grim book of 90 pages about clocks, lent too.")
    assert isinstance(inside, t.EmbeddedResource)
    assert inside.resource == t.TextResourceContents(uri="library://newest", text="The newest")
    assert image == t.ImageContent(data=b64encode(PIXEL).decode(), mime_type="image/png")
    call, *_ = SqlRecords(SqliteFile(gate.root / "data" / "toolgate.db")).calls(
        most=1, subject="mia", tool="library.suggest"
    )
    assert call.end == "done"
    assert (got.meta or {})[CALL_ID] == call.call_id


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "mood"),
        ({"mood": "glad"}, "mood"),
        ({"mood": "grim", "pages": "many"}, "pages"),
        ({"mood": "grim", "lent_too": "true"}, "not expected: lent_too"),
    ],
)
async def test_an_argument_that_is_missing_or_wrong_is_refused(
    gate: Served, era: Era, arguments: dict[str, str], problem: str
) -> None:
    async with gate.client("member", era) as client:
        with pytest.raises(MCPError, match=problem) as raised:
            await client.get_prompt("library_suggest", arguments)

    assert raised.value.code == -32602
    assert _data(raised.value)["code"] == "bad_arguments"


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("name", ["library_accounts", "library_nothing", "library_read", "notes_search", ""])
async def test_what_may_not_be_seen_or_is_no_prompt_is_answered_like_what_is_not_there(
    gate: Served, era: Era, name: str
) -> None:
    async with gate.client("member", era) as client:
        with pytest.raises(MCPError) as raised:
            await client.get_prompt(name)

    assert (raised.value.code, raised.value.message) == (-32602, f"Unknown prompt: {name}")
    assert _data(raised.value).keys() == {"prompt", ENTRY, CALL_ID, REPLAYED}


@pytest.mark.parametrize("era", ERAS)
async def test_a_prompt_is_a_tool_for_whoever_calls_it_by_name(gate: Served, era: Era) -> None:
    async with gate.client("member", era) as client:
        called = await client.call_tool("library_suggest", {"mood": "grim"})

    assert called.structured_content["messages"][0]["role"] == "user"


@pytest.mark.parametrize("era", ERAS)
async def test_a_prompt_can_ask_the_person_first(gate: Served, era: Era) -> None:
    asked: list[str] = []

    async def ask(context: object, params: t.ElicitRequestParams) -> t.ElicitResult:
        del context
        asked.append(params.message)
        return t.ElicitResult(action="accept", content={"name": "Ann"})

    async with gate.client("member", era, on_question=ask) as client:
        got = await client.get_prompt("library_recommend")

    assert asked == ["Whom to?"]
    (message,) = got.messages
    assert message.content == t.TextContent(text="Recommend a book to Ann.")


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_that_cannot_ask_gets_the_question_as_an_error(gate: Served, era: Era) -> None:
    async with gate.client("member", era) as client:
        with pytest.raises(MCPError, match=r"Whom to\?") as raised:
            await client.get_prompt("library_recommend")

    assert raised.value.code == (-32021 if era == "auto" else REFUSED)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("ref", "argument", "typed", "values"),
    [
        (t.PromptReference(name="library_suggest"), "mood", "", ["merry", "melancholy", "grim"]),
        (t.PromptReference(name="library_suggest"), "mood", "ME", ["merry", "melancholy"]),
        (t.PromptReference(name="library_suggest"), "lentToo", "t", ["true"]),
        (t.PromptReference(name="library_suggest"), "about", "x", []),
        (t.ResourceTemplateReference(uri="library://titles/{title}?lent={lent}"), "lent", "f", ["false"]),
        (t.ResourceTemplateReference(uri="library://books/{number}"), "number", "1", []),
    ],
)
async def test_choices_are_completed(
    gate: Served,
    era: Era,
    ref: t.PromptReference | t.ResourceTemplateReference,
    argument: str,
    typed: str,
    values: list[str],
) -> None:
    async with gate.client("member", era) as client:
        said = await client.complete(ref, {"name": argument, "value": typed})

    assert said.completion == t.Completion(values=values, total=len(values), has_more=False)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("ref", "argument"),
    [
        (t.PromptReference(name="library_suggest"), "nothing"),
        (t.PromptReference(name="library_accounts"), "year"),
        (t.PromptReference(name="library_read"), "language"),
        (t.ResourceTemplateReference(uri="library://books/{number}"), "language"),
        (t.ResourceTemplateReference(uri="library://books/{other}"), "number"),
        (t.ResourceTemplateReference(uri="library://staff"), "x"),
    ],
)
async def test_nothing_is_completed_that_the_caller_does_not_see(
    gate: Served, era: Era, ref: t.PromptReference | t.ResourceTemplateReference, argument: str
) -> None:
    async with gate.client("member", era) as client:
        with pytest.raises(MCPError) as raised:
            await client.complete(ref, {"name": argument, "value": ""})

    assert raised.value.code == -32602


@pytest.mark.parametrize("era", ERAS)
async def test_clients_are_told_that_their_lists_may_have_changed(
    starter: Path, tmp_path: Path, era: Era
) -> None:
    root = library_in(Path(shutil.copytree(starter, tmp_path / "root")))
    told = {"Resource": anyio.Event(), "Prompt": anyio.Event()}

    async def hear(message: object) -> None:
        kind = type(getattr(message, "root", message)).__name__
        for name, event in told.items():
            if kind.startswith(name) and "ListChanged" in kind:
                event.set()

    with serving(root, installed_in(tmp_path / "site")) as gate:
        async with gate.client("member", era, hear) as client, anyio.create_task_group() as group:
            assert len((await client.list_prompts()).prompts) == 2
            if era == "auto":
                await group.start(_listen, client, hear)
            rules = gate.root / "policies" / "rules.csv"
            rules.write_text(rules.read_text("utf-8").replace("B06, deny", "B06, shadow-deny"), "utf-8")
            with anyio.fail_after(20):
                for event in told.values():
                    await event.wait()
            assert len((await client.list_prompts()).prompts) == 3
            group.cancel_scope.cancel()


async def _listen(
    client: Client, hear: Hear, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    async with client.listen(prompts_list_changed=True, resources_list_changed=True) as events:
        task_status.started()
        async for event in events:
            await hear(event)


def _data(error: MCPError) -> dict[str, Any]:
    data: dict[str, Any] = error.error.data
    return data
