"""The HTTP client that operations get: signed in, and honest about what a request did."""

import base64
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import JsonValue, SecretStr

from examples.ticket_adapter import tickets
from tests.ticket_desk import Desk, open_desk
from toolgate.adapter import (
    PREPARING,
    Credential,
    NothingDone,
    SignIn,
    System,
)
from toolgate.adapter.http import HttpConnector, RequestBroken

pytestmark = pytest.mark.anyio
SECRET = "canary-user:canary-password"


@pytest.fixture
def desk() -> Generator[Desk]:
    with open_desk() as opened:
        yield opened


class Sends:
    """Counts, as the gate would."""

    count = 0

    def __call__(self) -> None:
        self.count += 1


async def ask(
    desk: Desk,
    method: str,
    path: str,
    credential: Credential | None = None,
    **options: Any,  # noqa: ANN401
) -> tuple[httpx.Response, int]:
    connector, sends = HttpConnector(desk.system()), Sends()
    try:
        async with connector.session(credential, sends) as client:
            return await client.request(method, path, **options), sends.count
    finally:
        await connector.aclose()


async def test_a_credential_never_leaves_for_another_host(desk: Desk) -> None:
    credential = Credential(secret=SecretStr(SECRET), sign_in="bearer")
    with open_desk() as other:
        with pytest.raises(ValueError, match="another host"):
            await ask(desk, "GET", f"{other.url}tickets/1", credential)
        assert other.asked == []


@pytest.mark.parametrize(
    ("sign_in", "header", "sent"),
    [
        ("basic", "Authorization", f"Basic {base64.b64encode(SECRET.encode()).decode()}"),
        ("bearer", "Authorization", f"Bearer {SECRET}"),
        ("header", "X-Api-Key", SECRET),
        ("none", "Authorization", None),
    ],
)
async def test_the_client_is_signed_in_as_the_manifest_says(
    desk: Desk, sign_in: SignIn, header: str, sent: str | None
) -> None:
    credential = Credential(secret=SecretStr(SECRET), sign_in=sign_in, header=header)
    await ask(desk, "GET", "tickets/1", credential)

    assert desk.asked[0][2].get(header) == sent
    assert "canary" not in repr(credential)


async def test_one_calls_sign_in_is_not_the_next_ones(desk: Desk) -> None:
    connector = HttpConnector(desk.system(headers={"X-Team": "desk"}))
    for credential in (Credential(secret=SecretStr(SECRET), sign_in="bearer"), None):
        async with connector.session(credential, Sends()) as client:
            await client.get("tickets/1")
    await connector.aclose()

    assert [headers.get("Authorization") for _, _, headers in desk.asked] == [f"Bearer {SECRET}", None]
    assert [headers["X-Team"] for _, _, headers in desk.asked] == ["desk", "desk"]


async def test_no_proxy_of_the_environment_sees_a_request(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    reply, _ = await ask(desk, "GET", "tickets/1")
    assert reply.json()["title"] == "Printer"


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        (400, "upstream_refused", False),
        (401, "upstream_sign_in", False),
        (403, "upstream_forbidden", False),
        (404, "not_found", False),
        (409, "conflict", False),
        (412, "conflict", False),
        (425, "upstream_refused", True),
        (429, "upstream_busy", True),
    ],
)
async def test_a_refusal_means_that_the_request_did_nothing(
    desk: Desk,
    status: int,
    code: str,
    retryable: bool,
) -> None:
    with pytest.raises(NothingDone) as refused:
        await ask(desk, "POST", f"status/{status}")

    assert (refused.value.code, refused.value.retryable) == (code, retryable)
    assert refused.value.message == f"the system refused the request (HTTP {status})"


@pytest.mark.parametrize("status", [302, 304, 408, 500, 503])
async def test_of_other_statuses_nobody_can_tell_what_was_done(desk: Desk, status: int) -> None:
    with pytest.raises(RequestBroken, match=f"HTTP {status}"):
        await ask(desk, "POST", f"status/{status}")

    assert len(desk.asked) == 1, "no redirect is followed"


async def test_a_system_that_is_down_may_be_asked_again() -> None:
    with pytest.raises(NothingDone) as refused:
        await ask(Desk(url="http://127.0.0.1:9/"), "POST", "tickets")

    assert (refused.value.code, refused.value.retryable) == ("unreachable", True)


@pytest.mark.parametrize(
    ("method", "options", "sends"),
    [
        ("GET", {}, 0),
        ("OPTIONS", {}, 0),
        ("POST", {}, 1),
        ("PUT", {}, 1),
        ("DELETE", {}, 1),
        ("POST", {"extensions": PREPARING}, 0),
    ],
)
async def test_a_request_that_can_have_an_effect_is_announced_first(
    desk: Desk, method: str, options: dict[str, Any], sends: int
) -> None:
    assert (await ask(desk, method, "status/200", **options))[1] == sends


async def test_what_is_announced_can_still_be_stopped(desk: Desk) -> None:
    def stop() -> None:
        raise InterruptedError

    connector = HttpConnector(desk.system())
    async with connector.session(None, stop) as client:
        with pytest.raises(InterruptedError):
            await client.post("tickets", json={"title": "x"})
    await connector.aclose()

    assert desk.asked == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"base_url": "desk"}, r"\[system\] base_url: "),
        ({}, r"\[system\] base_url: "),
        ({"base_url": "http://desk", "proxy": "x"}, r"\[system\] proxy: "),
        ({"base_url": "http://desk", "max_connections": 0}, r"\[system\] max_connections: "),
        ({"base_url": "http://me:canary@desk"}, r"\[system\] base_url: it holds a user; name a credential"),
    ],
)
def test_a_wrong_system_table_is_told_with_its_place(options: dict[str, JsonValue], told: str) -> None:
    with pytest.raises(ValueError, match=told) as fault:
        tickets.connect(System(name="tickets", root=Path(), options=options, tools={}))

    assert "canary" not in str(fault.value)
