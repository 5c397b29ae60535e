"""What the platform team is told about operations that cannot be offered as resources or prompts."""

import sys
from collections.abc import Callable
from pathlib import Path

import mcp_types as t
import pytest
from mcp.shared.exceptions import MCPError

from tests.library import OFFERED, installed_in, manifest, terms
from toolgate.backends.manifest_catalog import ManifestCatalog, Registry
from toolgate.web.paging import page_of

Write = Callable[..., Registry]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.setattr(sys, "path", [str(installed_in(tmp_path / "site")), *sys.path])
    (tmp_path / "registry").mkdir()

    def write(**files: str) -> Registry:
        for name, text in files.items():
            (tmp_path / "registry" / f"{name}.toml").write_text(text, "utf-8")
        return Registry(tmp_path / "registry", tmp_path)

    return write


def _read(registry: Registry) -> ManifestCatalog:
    catalog, faults = registry.read()
    assert faults == []
    assert catalog is not None
    return catalog


@pytest.mark.parametrize(
    ("tool", "place", "problem", "remedy"),
    [
        (terms("newest", resource='"newest"'), "newest.resource", "begin with a scheme", "see docs/"),
        (terms("newest", resource="7"), "newest.resource", "valid string", "see docs/"),
        (
            terms("read", resource='"library://books"'),
            "read.resource",
            "the argument number may not be left out, and the address does not hold it",
            "write {number} into it",
        ),
        (
            terms("read", resource='"library://{number}/{page}"'),
            "read.resource",
            "{page} is no argument",
            "its variables can be: number, language",
        ),
        (
            terms("burn", effect='"destroy"', resource='"library://{number}"'),
            "burn.resource",
            "only a read",
            "remove it",
        ),
        (terms("newest", prompt="true"), "newest.prompt", "no toolgate.adapter.Messages", "remove it"),
        (terms("suggest", effect='"write"', prompt="true"), "suggest.prompt", "only a read", "remove it"),
        (
            terms("recommend", prompt="true", resource='"library://recommend"'),
            "recommend.prompt",
            "an address as a resource, too",
            "decide for one",
        ),
        (terms("tell", prompt="true"), "tell.prompt", "its argument prices is no text", "remove it"),
    ],
)
def test_what_cannot_be_offered_so_is_told_with_its_place(
    write: Write, tool: str, place: str, problem: str, remedy: str
) -> None:
    catalog, (fault,) = write(library=manifest(tool)).read()

    assert catalog is None
    assert (fault.file, fault.place) == ("registry/library.toml", f"tools.{place}")
    assert problem in fault.problem
    assert fault.remedy.startswith(remedy)


def test_two_addresses_that_could_be_mixed_up_are_refused_across_manifests(write: Write) -> None:
    one = manifest(terms("read", resource='"library://{number}"'))
    other = manifest(terms("newest", resource='"library://newest"'))

    catalog, (fault,) = write(first=one, second=other).read()

    assert catalog is None
    assert (fault.file, fault.place) == ("registry", "second.newest")
    assert fault.problem == "library://newest and library://{number} of first.read could mean one address"


def test_an_offer_is_part_of_what_a_tool_is(write: Write) -> None:
    (plain,) = _read(write(library=manifest(terms("newest")))).tools
    (offered,) = _read(write(library=manifest(terms("newest", resource='"library://newest"')))).tools
    (asked,) = _read(write(library=manifest(terms("recommend")))).tools
    (prompt,) = _read(write(library=manifest(terms("recommend", prompt="true")))).tools

    assert plain.definition != offered.definition
    assert asked.definition != prompt.definition


def test_what_can_be_offered_is(write: Write) -> None:
    tools = _read(write(library=OFFERED)).tools

    assert {tool.operation for tool in tools if tool.prompt} == {"suggest", "recommend", "accounts"}
    assert {tool.operation: tool.resource.variables for tool in tools if tool.resource} == {
        "read": ("number",),
        "newest": (),
        "find": ("title", "lent"),
        "cover": ("number",),
        "staff": (),
        "prices": (),
    }


@pytest.mark.parametrize("size", [1, 2, 4, 9, 10])
def test_pages_hold_each_tool_once_in_order(write: Write, size: int) -> None:
    tools = _read(write(library=OFFERED)).tools
    pages = [page_of(tools, None, size)]
    while cursor := pages[-1][1]:
        pages.append(page_of(tools, t.PaginatedRequestParams(cursor=cursor), size))

    assert [tool for page, _ in pages for tool in page] == [*tools]
    assert [len(page) for page, _ in pages] == [min(size, 9 - start) for start in range(0, 9, size)]


@pytest.mark.parametrize("cursor", ["!!!!", "not one of ours", "_w=="])
def test_a_cursor_that_was_not_given_here_is_refused(cursor: str) -> None:
    with pytest.raises(MCPError, match="cursor"):
        page_of([], t.PaginatedRequestParams(cursor=cursor), 10)
