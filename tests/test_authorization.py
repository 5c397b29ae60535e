"""A client that knows the gate's address, and a real authorization server: from nothing to an answer."""

import asyncio
import shutil
from collections.abc import Generator
from pathlib import Path

import httpx2
import pytest
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.shared.exceptions import MCPError

from tests.authorizing import DOCUMENT, Memory, Person, connected, pre_registered, settings_of, sign_in
from tests.identity_provider import IdentityProvider, identity_provider
from tests.serving import ENTRY, ERAS, ERROR, Era, Served, call_body, serving, text_of
from tests.wire import becomes

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def idp(tmp_path_factory: pytest.TempPathFactory) -> Generator[IdentityProvider]:
    with identity_provider(tmp_path_factory.mktemp("idp")) as provider:
        yield provider


@pytest.fixture(autouse=True)
def as_ever(idp: IdentityProvider) -> Generator[None]:
    yield
    idp.be(seconds=300, scope="")


@pytest.fixture(scope="module")
def gate(starter: Path, idp: IdentityProvider, tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    """A gate of which clients are told to begin with a scope for reading."""
    root = Path(shutil.copytree(starter, tmp_path_factory.mktemp("gate") / "root"))
    file = root / "toolgate.toml"
    text = file.read_text("utf-8").replace('mode = "dev"', 'mode = "dev"\nfirst_scopes = ["notes:read"]')
    file.write_text(text + settings_of(idp), "utf-8")
    with serving(root) as served:
        yield served


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("known", ["registered before", "registers itself", "known by a document"])
async def test_a_person_signs_in_and_a_client_calls_in_their_name(
    gate: Served, idp: IdentityProvider, era: Era, known: str
) -> None:
    """RFC 9728, RFC 8414, RFC 7591 or Client ID Metadata Documents, PKCE, RFC 8707, RFC 9207."""
    memory = pre_registered(idp) if known == "registered before" else Memory()
    document = DOCUMENT if known == "known by a document" else None
    person = Person()

    async with connected(gate, sign_in(gate, memory, person, document=document), era) as client:
        listed = await client.list_tools()
        found = await client.call_tool("notes_search", {"contains": "set up"})

    assert [tool.name for tool in listed.tools] == ["notes_add", "notes_remove", "notes_search"]
    assert found.structured_content["rows"][0]["text"] == "Toolgate was set up"
    assert person.asked == [{"notes:read", "offline_access"}], "no more than the gate asked for"
    assert "code_challenge_method=S256" in person.links[0]
    assert memory.client is not None
    expected = {"registered before": "ide", "known by a document": DOCUMENT}
    assert memory.client.client_id == expected.get(known, memory.client.client_id)


async def test_a_token_that_expires_in_mid_session_is_renewed_without_the_person(
    gate: Served, idp: IdentityProvider
) -> None:
    idp.be(seconds=1)
    person, memory = Person(), pre_registered(idp)
    async with connected(gate, sign_in(gate, memory, person)) as client:
        first = await client.call_tool("notes_search", {})
        idp.be(seconds=300)
        async with asyncio.timeout(10):
            while len(memory.granted) == 1:
                again = await client.call_tool("notes_search", {})
                assert not again.is_error, text_of(again)

    assert not first.is_error, text_of(first)
    assert len(person.links) == 1


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_steps_up_by_itself_and_repeats_the_call_once(
    gate: Served, idp: IdentityProvider, era: Era
) -> None:
    person = Person()
    async with connected(gate, sign_in(gate, pre_registered(idp), person), era) as client:
        await client.call_tool("notes_search", {})
        added = await client.call_tool("notes_add", {"text": f"with more scopes, {era}"})
        more = await client.call_tool("notes_add", {"text": f"and again, {era}"})

    assert added.structured_content["text"] == f"with more scopes, {era}"
    assert not more.is_error
    assert person.asked[1:] == [{"notes:read", "notes:write", "offline_access"}], "asked once more, for both"


@pytest.mark.parametrize("era", ERAS)
async def test_a_scope_that_the_issuer_does_not_give_ends_the_call_after_one_try(
    gate: Served, idp: IdentityProvider, era: Era
) -> None:
    idp.be(scope="notes:read")
    person = Person()
    async with connected(gate, sign_in(gate, pre_registered(idp), person), era) as client:
        with pytest.raises(MCPError) as refused:
            await client.call_tool("notes_add", {"text": "never"})
        found = await client.call_tool("notes_search", {"contains": "never"})

    assert refused.value.code == 403
    error = refused.value.error.data
    assert error[ERROR]["code"] == "insufficient_scope"
    assert isinstance(error[ENTRY], int), "the refusal is in the ledger"
    assert found.structured_content == {"rows": [], "truncated": False}
    assert len(person.links) == 2


async def test_a_tool_that_is_admitted_later_is_reached_by_stepping_up(
    gate: Served, idp: IdentityProvider
) -> None:
    person = Person()
    manifest = gate.root / "registry" / "notes.toml"
    before, version = manifest.read_text("utf-8"), _version(gate)
    async with connected(gate, sign_in(gate, pre_registered(idp), person)) as client:
        await client.call_tool("notes_add", {"text": "a note"})
        steps = len(person.links)
        manifest.write_text(before.replace('scopes = ["notes:read"]', 'scopes = ["notes:read", "gate:use"]'))
        try:
            async with asyncio.timeout(10):
                while len(person.links) == steps:
                    found = await client.call_tool("notes_search", {})
                    assert not found.is_error, text_of(found)
        finally:
            manifest.write_text(before, "utf-8")
            assert becomes(lambda: _version(gate) == version), "what follows meets the registry of before"

    assert person.asked[-1] == {"notes:read", "notes:write", "gate:use", "offline_access"}


@pytest.mark.parametrize("era", ERAS)
async def test_a_program_calls_in_its_own_name(gate: Served, idp: IdentityProvider, era: Era) -> None:
    auth = ClientCredentialsOAuthProvider(gate.url, Memory(), "rob", "rob-secret", issuer=idp.issuer)
    async with connected(gate, auth, era) as client:
        found = await client.call_tool("notes_search", {})
        added = await client.call_tool("notes_add", {"text": f"by a program, {era}"})

    assert not found.is_error, text_of(found)
    assert not added.is_error, "it steps up, too"


async def test_a_token_for_another_resource_is_refused(gate: Served, idp: IdentityProvider) -> None:
    body = call_body("notes_search", {})
    own = idp.token("mia", gate.url, "notes:read")
    assert gate.post(body, Authorization=f"Bearer {own}").status_code == 200

    for resource in ("http://127.0.0.1:1/mcp", "https://desk.example.com/"):
        scope = "notes:read" if resource.endswith("/mcp") else ""
        foreign = idp.token("gate" if not scope else "mia", resource, scope)
        reply = gate.post(body, Authorization=f"Bearer {foreign}")
        assert reply.status_code == 401
        assert (
            'error="invalid_token", error_description="it was not issued for this server"'
            in (reply.headers["WWW-Authenticate"])
        )


def _version(gate: Served) -> str:
    return str(httpx2.get(gate.url.replace("/mcp", "/readyz")).json()["version"])
