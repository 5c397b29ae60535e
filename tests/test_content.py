"""Results that are seen and heard, as clients of both eras get them, under every obligation of the gate."""

import asyncio
import base64
import re
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import mcp_types as t
import pytest
from pydantic import SecretStr, ValidationError

from tests.canaries import secrets_under
from tests.gallery import PICTURE, SECRET, gallery, gallery_in, installed_in, show
from tests.serving import (
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
from toolgate.adapter import Audio, Content, Image, ResourceLink, System, Text
from toolgate.adapter.content import LARGEST_DATA, MOST_BLOCKS
from toolgate.core.lease import Lease, Lent
from toolgate.core.outcome import Done
from toolgate.core.withheld import WITHHELD, without_secrets
from toolgate.testing import try_operation
from toolgate.web.content import blocks_of

pytestmark = pytest.mark.anyio
HIDDEN = "dev.toolgate/hidden"
SPELLED = base64.b64encode(PICTURE).decode()


@pytest.fixture(scope="module")
def gate(starter: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    folder = tmp_path_factory.mktemp("gallery")
    root = gallery_in(Path(shutil.copytree(starter, folder / "root")))
    with serving(root, installed_in(folder / "site")) as served:
        yield served


@pytest.mark.parametrize("era", ERAS)
async def test_blocks_go_out_as_they_are_and_nothing_is_structured(gate: Served, era: Era) -> None:
    async with gate.client("member", era) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        shown = await client.call_tool("gallery_show", {})

    assert tools["gallery_show"].output_schema is None
    assert shown.structured_content is None
    assert [block.model_dump(by_alias=True, exclude_none=True) for block in shown.content] == [
        {"type": "text", "text": "A picture"},
        {"type": "image", "data": SPELLED, "mimeType": "image/png"},
        {"type": "audio", "data": SPELLED, "mimeType": "audio/wav"},
        {"type": "resource", "resource": {"uri": "gallery://1", "text": "Label", "mimeType": "text/plain"}},
        {"type": "resource", "resource": {"uri": "gallery://2", "blob": SPELLED}},
        {"type": "resource_link", "uri": "gallery://3", "name": "The next room"},
    ]


def test_what_a_block_does_not_say_is_left_out(gate: Served) -> None:
    said = gate.post(call_body("gallery_show", {}), Mcp_Name="gallery_show").json()["result"]

    assert said["content"][4] == {"type": "resource", "resource": {"uri": "gallery://2", "blob": SPELLED}}
    assert "structuredContent" not in said


async def test_a_replay_gives_the_same_blocks_and_says_so(gate: Served) -> None:
    meta = cast("Any", {KEY: "the-key-of-one-look"})
    async with gate.client() as client:
        first = await client.call_tool("gallery_show", {}, meta=meta)
        again = await client.call_tool("gallery_show", {}, meta=meta)

    assert meta_of(again)[REPLAYED]
    assert text_of(again).startswith("Already applied")
    assert again.content[1:] == first.content


async def test_a_masked_image_becomes_a_word_about_it(gate: Served) -> None:
    async with gate.client("child") as client:
        shown = await client.call_tool("gallery_show", {})

    kinds = [block.type for block in shown.content]
    assert kinds == ["text", "text", "text", "resource", "text", "resource_link", "text"]
    assert [block.text for block in shown.content if isinstance(block, t.TextContent)][:4] == [
        "A picture",
        WITHHELD,
        WITHHELD,
        WITHHELD,
    ]
    assert meta_of(shown)[HIDDEN] == ["mask=blob|data"]
    assert "mask=blob|data" in text_of(shown)


async def test_a_rule_can_say_how_many_blocks_a_caller_gets(gate: Served) -> None:
    async with gate.client("guest") as client:
        shown = await client.call_tool("gallery_show", {})

    assert [block.type for block in shown.content] == ["text", "image", "text"]
    assert meta_of(shown)[HIDDEN] == ["rows=2"]


@pytest.mark.canaries
async def test_a_credential_is_withheld_from_texts_and_from_what_is_none(gate: Served) -> None:
    async with gate.client() as client:
        told = await client.call_tool("gallery_tell", {})

    texts = [block.text for block in told.content if isinstance(block, t.TextContent)]
    assert texts == [f"It is {WITHHELD}.", WITHHELD, WITHHELD, "That was it."]
    assert secrets_under(gate.root, [SECRET]) == []


@pytest.mark.parametrize("before", range(6))
def test_a_secret_inside_of_base64_is_found_wherever_it_begins(before: int) -> None:
    secret = Lease(secret=SecretStr(SECRET), lent=Lent(id="l", role="r"))
    octets = bytes(range(before)) + SECRET.encode() + b"\x00\xff"
    image = {"type": "image", "data": base64.b64encode(octets).decode(), "mimeType": "image/png"}
    outcome = without_secrets(Done(value={"content": [cast("Any", image)]}), secret)

    assert isinstance(outcome, Done)
    assert blocks_of(outcome.value) == [{"type": "text", "text": WITHHELD}]


async def test_an_image_may_be_larger_than_any_text_and_has_a_bound_all_the_same(gate: Served) -> None:
    async with gate.client() as client:
        large = await client.call_tool("gallery_enlarge", {"octets": 1_000_000})
        too_large = await client.call_tool("gallery_enlarge", {"octets": LARGEST_DATA + 1})

    (image,) = large.content
    assert isinstance(image, t.ImageContent)
    assert len(base64.b64decode(image.data)) == 1_000_000
    assert meta_of(too_large)[ERROR]["code"] == "adapter_error"


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "image", "data": "no base64!", "mimeType": "image/png"},
        {"type": "image", "data": "YQ", "mimeType": "image/png"},
        {"type": "image", "data": "YQ==", "mimeType": "png"},
        {"type": "video", "data": "YQ==", "mimeType": "video/mp4"},
        {"type": "text", "text": "a", "more": "b"},
        {"type": "resource_link", "uri": "nowhere", "name": "a"},
        {"type": "resource", "resource": {"uri": "gallery://1"}},
    ],
)
def test_what_is_no_block_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Content.model_validate({"content": [wrong]})


def test_there_is_a_bound_on_blocks() -> None:
    Content(content=(Text(text="a"),) * MOST_BLOCKS)
    with pytest.raises(ValidationError):
        Content(content=(Text(text="a"),) * (MOST_BLOCKS + 1))


def test_an_author_gives_octets_and_reads_json() -> None:
    tried = asyncio.run(
        try_operation(gallery, show, {}, system=System(name="gallery", root=Path(), options={}, tools={}))
    )

    assert Content.model_validate(tried.value) == Content.model_validate_json(
        Content.model_validate(tried.value).model_dump_json(by_alias=True)
    )
    image = Content.model_validate(tried.value).content[1]
    assert isinstance(image, Image)
    assert image.data == PICTURE


def test_the_example_of_the_reference_is_an_operation_that_gives_content() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "reference" / "adapter.md").read_text("utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    defined: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, "adapter.md", "exec"), defined)  # noqa: S102 - our own page

    assert defined["look"].output_model is Content


def test_names_are_mcps_on_the_wire_and_pythons_for_authors() -> None:
    content = Content(
        content=(Audio(data=b"a", mime_type="audio/wav"), ResourceLink(uri="a:b", name="a", mime_type="a/b"))
    )

    said = content.model_dump(mode="json", by_alias=True)["content"]
    assert said[0] == {"type": "audio", "data": "YQ==", "mimeType": "audio/wav"}
    assert said[1]["mimeType"] == "a/b"
