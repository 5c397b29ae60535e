"""A real authorization server that changes its keys, whose clock is off, and that goes away meanwhile."""

import asyncio
import shutil
import signal
import time
from collections.abc import Generator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx2
import pytest

from tests.authorizing import settings_of
from tests.identity_provider import IdentityProvider, identity_provider
from tests.serving import Served, call_body, serving

pytestmark = pytest.mark.anyio

SECONDS = 1
"""How old the gate takes keys to be at most."""


def serving_for(idp: IdentityProvider, root: Path) -> AbstractContextManager[Served]:
    file = root / "toolgate.toml"
    file.write_text(file.read_text("utf-8") + settings_of(idp, leeway=5, jwks_seconds=SECONDS), "utf-8")
    return serving(root)


@pytest.fixture(scope="module")
def idp(tmp_path_factory: pytest.TempPathFactory) -> Generator[IdentityProvider]:
    with identity_provider(tmp_path_factory.mktemp("idp")) as provider:
        yield provider


@pytest.fixture(scope="module")
def gate(starter: Path, idp: IdentityProvider, tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    root = Path(shutil.copytree(starter, tmp_path_factory.mktemp("gate") / "root"))
    with serving_for(idp, root) as served:
        yield served


@pytest.fixture(autouse=True)
def as_ever(idp: IdentityProvider) -> Generator[None]:
    yield
    idp.be(ahead=0, seconds=300, down=False)


def search(gate: Served, token: str) -> httpx2.Response:
    return gate.post(call_body("notes_search", {}), Authorization=f"Bearer {token}")


def reason(reply: httpx2.Response) -> str:
    assert reply.status_code == 401, reply.text
    assert reply.headers["WWW-Authenticate"].startswith("Bearer resource_metadata=")
    return str(reply.json()["error_description"]).removeprefix("the bearer token: ")


async def test_no_good_token_fails_while_keys_change_and_a_withdrawn_key_ends_its_tokens(
    gate: Served, idp: IdentityProvider
) -> None:
    old = idp.token("mia", gate.url, "notes:read")
    failed: list[str] = []
    done = 0

    async def keep_calling(stop: asyncio.Event) -> None:
        nonlocal done
        while not stop.is_set():
            for token in (old, await asyncio.to_thread(idp.token, "rob", gate.url, "notes:read")):
                reply = await asyncio.to_thread(search, gate, token)
                done += 1
                if reply.status_code != 200:
                    failed.append(reply.text)

    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(keep_calling(stop))
        group.create_task(keep_calling(stop))
        for newest in (1, 2):
            before = done
            await asyncio.to_thread(idp.be, signing=newest, published=list(range(newest + 1)))
            while done < before + 12 and not failed:
                await asyncio.sleep(0.02)
        stop.set()
    assert failed == []

    assert search(gate, old).status_code == 200
    idp.be(published=[2])
    withdrawn = time.monotonic()
    while (reply := search(gate, old)).status_code == 200:
        assert time.monotonic() < withdrawn + SECONDS + 5
    assert reason(reply) == "it is signed with a key that its issuer does not publish"
    assert search(gate, idp.token("rob", gate.url, "notes:read")).status_code == 200


@pytest.mark.parametrize(
    ("ahead", "seconds", "said"),
    [
        (3, 300, ""),
        (60, 300, "it is not valid yet"),
        (-61, 60, ""),
        (-90, 60, "it has expired"),
    ],
    ids=["a little ahead", "far ahead", "a little behind", "far behind"],
)
def test_a_clock_may_be_off_by_the_leeway_and_no_more(
    gate: Served, idp: IdentityProvider, ahead: int, seconds: int, said: str
) -> None:
    idp.be(ahead=ahead, seconds=seconds)
    reply = search(gate, idp.token("mia", gate.url, "notes:read"))

    assert reply.status_code == (401 if said else 200)
    if said:
        assert reason(reply) == said


def test_an_issuer_that_cannot_be_asked_keeps_strangers_out_and_throws_no_token_away(
    root: Path, idp: IdentityProvider
) -> None:
    with serving_for(idp, root) as gate:
        token = idp.token("mia", gate.url, "notes:read")
        idp.be(down=True)
        reply = search(gate, token)

        assert reply.status_code == 503
        assert reply.json() == {
            "error": "temporarily_unavailable",
            "error_description": "the keys of its issuer cannot be read",
        }
        assert int(reply.headers["Retry-After"]) > 0
        assert "WWW-Authenticate" not in reply.headers
        assert search(gate, gate.token()).status_code == 200, "others are not concerned"

        idp.be(down=False)
        deadline = time.monotonic() + 30
        while search(gate, token).status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.parametrize("how", ["hangs", "is gone", "answers with errors"])
def test_calls_go_on_with_known_keys_while_their_issuer_is_away(root: Path, tmp_path: Path, how: str) -> None:
    with identity_provider(tmp_path) as idp, serving_for(idp, root) as gate:
        known, new = (idp.token("mia", gate.url, "notes:read") for _ in range(2))
        assert search(gate, known).status_code == 200
        match how:
            case "hangs":
                idp.process.send_signal(signal.SIGSTOP)
            case "is gone":
                idp.process.kill()
                idp.process.wait()
            case _:
                idp.be(down=True)
        away = time.monotonic()
        while time.monotonic() < away + 3 * SECONDS:
            begun = time.monotonic()
            assert search(gate, known).status_code == search(gate, new).status_code == 200
            assert time.monotonic() < begun + 4
