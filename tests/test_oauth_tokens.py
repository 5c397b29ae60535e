"""Tokens of a real authorization server for one system, and what becomes of calls when it fails."""

import asyncio
import gc
import logging
import socket
import sqlite3
import time
import weakref
from collections.abc import AsyncGenerator, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import jwt
import orjson
import pytest
from pydantic import ValidationError

from tests.canaries import secrets_in, secrets_under
from tests.identity_provider import ASTRAY, BRIEF, DESK, OPAQUE, IdentityProvider, identity_provider
from tests.key_server import claims, sign
from tests.token_desk import Endpoint, Office, endpoint, exchange_at, failure, office, role_at
from tests.vault_server import certificates
from toolgate.backends.oauth_request import oauth_faults
from toolgate.backends.oauth_tokens import OAuthSource
from toolgate.core.errors import CredentialUnavailable
from toolgate.core.outcome import Answer, Done

pytestmark = pytest.mark.anyio
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
CANARIES = ["gate-secret", "Z2F0ZTpnYXRlLXNlY3JldA", "opaque-7Lk2", "canary-in-an-answer-5d1"]
"""The client's secret, the same in Basic authentication, a token, and what a server should not have said."""


@pytest.fixture(scope="module")
def idp(tmp_path_factory: pytest.TempPathFactory) -> Generator[IdentityProvider]:
    with identity_provider(tmp_path_factory.mktemp("idp")) as provider:
        yield provider


@pytest.fixture
def planted() -> list[str]:
    """Secrets of the test, beside those of every test."""
    return []


@pytest.fixture(autouse=True)
def nothing_secret_is_told(
    tmp_path: Path, planted: list[str], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> Generator[None]:
    """Whatever a test does, no secret stands in a file, a log or on the terminal."""
    caplog.set_level(logging.DEBUG)
    yield
    said = capfd.readouterr()
    records = [record for phase in ("setup", "call") for record in caplog.get_records(phase)]
    logged = [f"{logging.Formatter().format(record)}\n{record.__dict__}" for record in records]
    told = "\n".join([said.out, said.err, *logged])
    assert secrets_in(told.encode(), CANARIES + planted) == []
    (tmp_path / "server.key").unlink(missing_ok=True)
    assert secrets_under(tmp_path, CANARIES + planted) == []


@pytest.fixture
async def desk(tmp_path: Path, planted: list[str]) -> AsyncGenerator[Office]:
    async with office(tmp_path) as opened:
        yield opened
        planted.extend(opened.desk.tokens)


@pytest.fixture
def bad() -> Generator[Endpoint]:
    with endpoint() as served:
        yield served


def held(idp: IdentityProvider, token: str, audience: str = DESK) -> dict[str, Any]:
    """Give what a token says, as the desk does: by the key of its issuer."""
    key = jwt.PyJWKSet.from_dict(httpx.get(idp.jwks_uri, trust_env=False).json()).keys[0]
    said: dict[str, Any] = jwt.decode(
        token, key, algorithms=["ES256"], audience=audience, issuer=idp.issuer, leeway=30
    )
    return said


def code(answer: Answer) -> str:
    return "done" if isinstance(answer.outcome, Done) else failure(answer).code


async def test_a_gates_own_token_is_for_the_system_and_stands_in_the_ledger_before_it_is_used(
    idp: IdentityProvider, desk: Office
) -> None:
    assert code(await desk.call(role_at(idp.token_url))) == "done"

    said = held(idp, desk.desk.tokens[0])
    assert (said["sub"], said["scope"]) == ("gate", "desk:read")
    lent, kept = desk.entries()
    assert (lent["status"], kept["status"]) == ("lent", "kept")
    assert (lent["made"], lent["static"], lent["scope"]) == ("token", False, f"{DESK} desk:read")
    assert 290 < lent["ttl"] <= 300
    assert lent["lease"] == kept["lease"]
    assert kept["issued"] is not None


async def test_an_exchanged_token_names_the_caller_and_who_acts_and_is_the_only_one_that_the_system_sees(
    idp: IdentityProvider, desk: Office, planted: list[str]
) -> None:
    token = idp.token("mia")
    planted.append(token)

    assert code(await desk.call(exchange_at(idp), token, idp.issuer)) == "done"

    (shown,) = desk.desk.tokens
    said = held(idp, shown)
    assert (said["sub"], said["act"], said["aud"]) == ("mia", {"sub": "gate"}, DESK)
    assert shown != token


async def test_a_client_whose_id_and_secret_hold_anything_is_known(
    idp: IdentityProvider, desk: Office
) -> None:
    desk.environment["GATE_CLIENT"] = "gate at/work:p+s %w:o&r=d"

    assert code(await desk.call(role_at(idp.token_url))) == "done"
    assert held(idp, desk.desk.tokens[0])["sub"] == "gate at/work"


@pytest.mark.parametrize("grant", ["client_credentials", "token_exchange"])
async def test_an_opaque_token_is_taken_at_its_servers_word(
    idp: IdentityProvider, desk: Office, grant: str
) -> None:
    role = role_at(idp.token_url, grant=grant, resource=OPAQUE)

    assert code(await desk.call(role, idp.token(), idp.issuer)) == "done"


@pytest.mark.parametrize("grant", ["client_credentials", "token_exchange"])
async def test_a_token_for_somebody_else_is_not_used(idp: IdentityProvider, desk: Office, grant: str) -> None:
    role = role_at(idp.token_url, grant=grant, resource=ASTRAY)

    assert code(await desk.call(role, idp.token(), idp.issuer)) == "oauth_token_not_bound"
    assert desk.desk.tokens == []
    assert desk.entries() == []


@pytest.mark.parametrize(
    ("audience", "expected"),
    [
        (DESK, "done"),
        ([DESK, "https://other.example.com"], "done"),
        ("https://gate.example.com/mcp", "oauth_token_not_bound"),
        (["https://gate.example.com/mcp", "api"], "oauth_token_not_bound"),
        (DESK.removesuffix("/"), "oauth_token_not_bound"),
        ([], "oauth_token_not_bound"),
        ({"aud": DESK}, "oauth_token_not_bound"),
        (None, "oauth_token_not_bound"),
    ],
)
async def test_an_exchanged_token_is_for_the_system_and_not_for_the_gate(
    desk: Office, bad: Endpoint, audience: object, expected: str
) -> None:
    bad.says(access_token=sign(claims(aud=audience)), issued_token_type=_ACCESS_TOKEN)
    issuer = bad.url.removesuffix("/token")

    assert code(await desk.call(role_at(bad.url, grant="token_exchange"), sign(claims()), issuer)) == expected


async def test_a_role_that_names_the_gate_itself_gets_no_token(desk: Office, bad: Endpoint) -> None:
    gate = "https://gate.example.com/mcp"
    role = role_at(bad.url, grant="token_exchange", resource=gate)
    issuer, own = bad.url.removesuffix("/token"), sign(claims(aud=gate))

    bad.says(access_token=sign(claims(aud=gate, sub="other")), issued_token_type=_ACCESS_TOKEN)
    assert code(await desk.call(role, own, issuer)) == "oauth_token_not_bound"
    bad.says(access_token="the-callers-own", issued_token_type=_ACCESS_TOKEN)
    assert code(await desk.call(role, "the-callers-own", issuer)) == "oauth_token_not_bound"


_ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
ORIGIN = "{origin}"


@pytest.mark.parametrize(
    ("issuer", "path", "said", "sent"),
    [
        (ORIGIN, "/token", "", True),
        (f"{ORIGIN}/", "/token", "", True),
        (f"{ORIGIN}/realms/a", "/realms/a/token", "", True),
        (f"{ORIGIN}/realms/a", "/realms/b/token", "", False),
        (f"{ORIGIN}/realms/a", "/realms/ab/token", "", False),
        (f"{ORIGIN}/realms/a", "/realms/a/../b/token", "", False),
        ("https://127.0.0.1", "/token", "", False),
        ("http://127.0.0.1:1", "/token", "", False),
        ("http://localhost", "/token", "", False),
        ("urn:toolgate:dev", "/token", "", False),
        ("http://a:b", "/token", "", False),
        ("http://xn--a", "/token", "", False),
        ("https://id.example.com", "/token", "https://id.example.com", True),
        ("https://id.example.com", "/token", "https://other.example.com", False),
        (ORIGIN, "/token", "https://id.example.com", False),
    ],
)
async def test_a_callers_token_goes_to_its_own_issuers_endpoint_and_nowhere_else(
    desk: Office, bad: Endpoint, issuer: str, path: str, said: str, *, sent: bool
) -> None:
    bad.says(issued_token_type=_ACCESS_TOKEN)
    origin = bad.url.removesuffix("/token")
    role = role_at(f"{origin}{path}", grant="token_exchange", issuer=said)

    answer = await desk.call(role, "a-token", issuer.format(origin=origin))

    assert code(answer) == ("done" if sent else "oauth_foreign_issuer")
    assert [form["subject_token"] for form in bad.asked] == (["a-token"] if sent else [])


async def test_who_came_without_a_token_can_have_nothing_exchanged(desk: Office, bad: Endpoint) -> None:
    assert code(await desk.call(role_at(bad.url, grant="token_exchange"))) == "no_caller_token"
    assert bad.asked == []


async def test_the_form_says_what_the_role_says(desk: Office, bad: Endpoint) -> None:
    issuer = bad.url.removesuffix("/token")
    bad.says(issued_token_type=_ACCESS_TOKEN)
    await desk.call(role_at(bad.url, audience="desk", scope=""))
    await desk.call(role_at(bad.url, grant="token_exchange", resource="", audience="desk"), "own", issuer)

    assert bad.asked == [
        {"grant_type": "client_credentials", "resource": DESK, "audience": "desk"},
        {
            "grant_type": EXCHANGE,
            "subject_token": "own",
            "subject_token_type": _ACCESS_TOKEN,
            "requested_token_type": _ACCESS_TOKEN,
            "audience": "desk",
            "scope": "desk:read",
        },
    ]


@pytest.mark.parametrize("grant", ["client_credentials", "token_exchange"])
async def test_calls_at_the_same_time_and_after_it_share_one_request(
    idp: IdentityProvider, desk: Office, grant: str
) -> None:
    role, token, before = role_at(idp.token_url, grant=grant), idp.token(), len(idp.asked())

    answers = await asyncio.gather(*(desk.call(role, token, idp.issuer) for _ in range(20)))
    answers.append(await desk.call(role, token, idp.issuer))

    assert {code(answer) for answer in answers} == {"done"}
    assert len(idp.asked()) - before == 1
    assert len(set(desk.desk.tokens)) == 1
    assert [entry["status"] for entry in desk.entries()].count("lent") == 1
    assert len({entry["lease"] for entry in desk.entries()}) == 1


async def test_a_token_is_shared_by_none_but_those_for_whom_it_is(
    idp: IdentityProvider, desk: Office
) -> None:
    desk.gate.enforce("p, W1, allow, worker, *, desk.*, *, -, -, -\n")
    role, mia, rob = exchange_at(idp), idp.token("mia"), idp.token("rob")
    first = await desk.shown(role, mia, idp.issuer)
    others = [
        await desk.shown(role, rob, idp.issuer, subject="rob"),
        await desk.shown(role, mia, idp.issuer, run="one"),
        await desk.shown(role, mia, idp.issuer, tenant="globex"),
        await desk.shown(role.model_copy(update={"scope": "desk:write"}), mia, idp.issuer),
        await desk.shown(role_at(idp.token_url)),
        await desk.shown(role_at(idp.token_url), tenant="globex"),
    ]

    assert len({first, *others}) == 7
    assert await desk.shown(role, mia, idp.issuer) == first
    assert await desk.shown(role, mia, idp.issuer, run="one") == others[1]
    assert await desk.shown(role_at(idp.token_url), rob, idp.issuer, run="one") == others[4]


async def test_a_new_secret_of_the_client_makes_a_new_token(idp: IdentityProvider, desk: Office) -> None:
    assert code(await desk.call(role_at(idp.token_url))) == "done"
    desk.environment["GATE_CLIENT"] = "gate:gate-secret-of-yesterday"

    assert code(await desk.call(role_at(idp.token_url))) == "oauth_client_refused"


async def test_a_new_token_is_asked_for_when_a_third_of_the_life_is_left(
    idp: IdentityProvider, desk: Office
) -> None:
    role = role_at(idp.token_url)
    await desk.call(role)
    desk.clock.pass_by(195)
    await desk.call(role)
    desk.clock.pass_by(10)
    await desk.call(role)

    first, same, other = desk.desk.tokens
    assert (first == same, first == other) == (True, False)


async def test_a_token_that_is_still_good_is_used_while_no_new_one_can_be_had_and_never_past_its_end(
    desk: Office, bad: Endpoint
) -> None:
    role = role_at(bad.url)
    await desk.call(role)
    bad.says(503)
    desk.clock.pass_by(205)
    assert code(await desk.call(role)) == "done"
    assert code(await desk.call(role)) == "done"
    assert len(bad.asked) == 2, "it is tried again after a pause"
    desk.clock.pass_by(94)
    assert code(await desk.call(role)) == "done"
    assert len(bad.asked) == 3
    desk.clock.pass_by(1.5)
    assert code(await desk.call(role)) == "oauth_server_error"
    bad.says(access_token="opaque-of-later")
    assert code(await desk.call(role)) == "done"


async def test_a_refusal_is_not_covered_by_a_token_that_is_still_good(desk: Office, bad: Endpoint) -> None:
    await desk.call(role_at(bad.url))
    bad.says(400, error="invalid_client")
    desk.clock.pass_by(205)

    assert code(await desk.call(role_at(bad.url))) == "oauth_client_refused"


async def test_a_token_of_seconds_is_for_those_who_wait_and_lapses(
    idp: IdentityProvider, desk: Office
) -> None:
    role = role_at(idp.token_url, resource=BRIEF)
    await desk.call(role)
    await desk.call(role)

    assert len(set(desk.desk.tokens)) == 2
    assert [entry["status"] for entry in desk.entries()] == ["lent", "lapses"] * 2


async def test_what_a_server_does_not_say_lives_a_minute_and_what_it_overstates_a_day(
    desk: Office, bad: Endpoint
) -> None:
    bad.says(200, "expires_in")
    unsaid = await desk.source.lend(desk.wanted(role_at(bad.url)))
    bad.says(expires_in="10000000000")
    overstated = await desk.source.lend(desk.wanted(role_at(bad.url), tenant="globex"))
    bad.says(access_token=sign(claims(aud=DESK, exp=int(time.time()) + 100)), expires_in=3600)
    sooner = await desk.source.lend(desk.wanted(role_at(bad.url), tenant="initech"))

    assert (unsaid.lent.ttl, overstated.lent.ttl) == (60, 86_400)
    assert 90 < sooner.lent.ttl <= 100


async def test_the_oldest_of_too_many_tokens_is_forgotten(desk: Office, bad: Endpoint) -> None:
    source = OAuthSource(desk.gate.parts.leases, now=desk.clock, most=2)
    for tenant, later, asked in (
        ("a", 0, 1),
        ("b", 100, 2),
        ("a", 120, 3),
        ("c", 0, 4),
        ("a", 0, 4),
        ("b", 0, 5),
    ):
        desk.clock.pass_by(later)
        await source.lend(desk.wanted(role_at(bad.url), tenant=tenant))
        assert len(bad.asked) == asked, tenant
    await source.aclose()


async def test_tokens_whose_time_is_over_are_forgotten(desk: Office, bad: Endpoint) -> None:
    await desk.call(role_at(bad.url))
    before = weakref.ref(await desk.source.lend(desk.wanted(role_at(bad.url))))
    await desk.source.keep()
    assert before() is not None
    desk.clock.pass_by(301)
    await desk.source.keep()

    gc.collect()
    assert before() is None


async def test_who_hangs_up_takes_the_token_from_nobody(desk: Office, bad: Endpoint) -> None:
    bad.hang()
    wanted = desk.wanted(role_at(bad.url))
    first = asyncio.create_task(desk.source.lend(wanted))
    others = [asyncio.create_task(desk.source.lend(desk.wanted(wanted.role))) for _ in range(3)]  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        while not bad.asked:
            await asyncio.sleep(0.01)
    first.cancel()
    bad.let_go.set()

    assert len({(await other).lent.id for other in others}) == 1
    assert first.cancelled()
    assert len(bad.asked) == 1


async def test_a_source_that_closes_lets_go_of_who_still_waits(desk: Office, bad: Endpoint) -> None:
    bad.hang()
    waiting = asyncio.create_task(desk.source.lend(desk.wanted(role_at(bad.url))))
    async with asyncio.timeout(10):
        while not bad.asked:
            await asyncio.sleep(0.01)
    await desk.source.aclose()

    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_token_that_could_not_be_recorded_is_not_used(tmp_path: Path, bad: Endpoint) -> None:
    async with office(tmp_path, patience=0.2) as desk:
        with closing(sqlite3.connect(desk.gate.database, check_same_thread=False)) as other:
            bad.when_asked = lambda: _hold(other)
            with pytest.raises(CredentialUnavailable) as refused:
                await desk.source.lend(desk.wanted(role_at(bad.url)))
            other.rollback()
        bad.when_asked = lambda: None
        await desk.source.lend(desk.wanted(role_at(bad.url)))

    assert (refused.value.code, refused.value.retryable) == ("ledger_unavailable", True)
    assert len(bad.asked) == 2


def _hold(database: sqlite3.Connection) -> None:
    database.execute("BEGIN IMMEDIATE")


@pytest.mark.parametrize(
    ("status", "said", "expected", "again"),
    [
        (400, {"error": "invalid_grant"}, "oauth_grant_refused", False),
        (400, {"error": "invalid_target"}, "oauth_target_refused", False),
        (400, {"error": "invalid_scope"}, "oauth_scope_refused", False),
        (400, {"error": "unauthorized_client"}, "oauth_client_refused", False),
        (400, {"error": "unsupported_grant_type"}, "oauth_refused", False),
        (400, {"error": "canary-in-an-answer-5d1"}, "oauth_refused", False),
        (400, {"error": ["invalid_grant"]}, "oauth_refused", False),
        (401, {"error": "invalid_client"}, "oauth_client_refused", False),
        (401, {}, "oauth_client_refused", False),
        (404, {}, "oauth_refused", False),
        (429, {"error": "invalid_grant"}, "oauth_rate_limited", True),
        (500, {}, "oauth_server_error", True),
        (503, {"error": "invalid_client"}, "oauth_server_error", True),
        (302, {}, "oauth_redirected", False),
        (201, {}, "oauth_bad_answer", False),
        (200, {"access_token": ""}, "oauth_bad_answer", False),
        (200, {"access_token": 7}, "oauth_bad_answer", False),
        (200, {"access_token": "opaque-7Lk2\r\nX-Evil: 1"}, "oauth_token_type", False),
        (200, {"token_type": "DPoP"}, "oauth_token_type", False),
        (200, {"expires_in": "soon"}, "oauth_bad_answer", False),
        (200, {"expires_in": 0}, "oauth_token_expired", True),
        (200, {"expires_in": -5}, "oauth_token_expired", True),
        (200, {"scope": "desk:read desk:write"}, "oauth_scope_too_wide", False),
        (200, {"access_token": sign(claims(aud=DESK, scope="a desk:read"))}, "oauth_scope_too_wide", False),
        (
            200,
            {"access_token": sign(claims(aud=DESK, exp=int(time.time()) - 60))},
            "oauth_token_expired",
            True,
        ),
        (
            200,
            {"access_token": sign(claims(aud="https://other.example.com/"))},
            "oauth_token_not_bound",
            False,
        ),
    ],
)
async def test_an_answer_that_is_no_token_for_us_ends_the_call_with_its_own_code(
    desk: Office, bad: Endpoint, status: int, said: dict[str, Any], expected: str, *, again: bool
) -> None:
    bad.says(status, error_description="canary-in-an-answer-5d1", **said)
    bad.headers["Location"] = f"{bad.url}/elsewhere"
    answer = await desk.call(role_at(bad.url))

    failed = failure(answer)
    assert (failed.code, failed.retryable) == (expected, again)
    assert not secrets_in(repr(answer).encode(), CANARIES)
    assert len(bad.asked) == 1
    assert desk.desk.tokens == []


LARGE = orjson.dumps({**Endpoint.good, "padding": "a" * 65_536})


@pytest.mark.parametrize("body", [b"", b"opaque-7Lk2", b"[]", b'{"access_token":', b"\xff", LARGE])
async def test_an_answer_that_cannot_be_read_is_not_a_token(desk: Office, bad: Endpoint, body: bytes) -> None:
    bad.body = body

    assert code(await desk.call(role_at(bad.url))) == "oauth_bad_answer"


@pytest.mark.parametrize("issued", ["", "urn:ietf:params:oauth:token-type:id_token"])
async def test_an_exchange_gives_an_access_token_or_nothing(desk: Office, bad: Endpoint, issued: str) -> None:
    bad.says(issued_token_type=issued)
    role = role_at(bad.url, grant="token_exchange")

    assert code(await desk.call(role, "own", bad.url.removesuffix("/token"))) == "oauth_token_type"


async def test_what_the_provider_itself_refuses_is_told_by_its_code(
    idp: IdentityProvider, desk: Office, planted: list[str]
) -> None:
    role, token = exchange_at(idp), idp.token()
    planted.append(token)

    assert code(await desk.call(role, f"{token}x", idp.issuer)) == "oauth_grant_refused"
    nowhere = role.model_copy(update={"resource": "https://nowhere.example.com/"})
    assert code(await desk.call(nowhere, token, idp.issuer)) == "oauth_target_refused"
    wider = role.model_copy(update={"scope": "desk:admin"})
    assert code(await desk.call(wider, token, idp.issuer)) == "oauth_scope_refused"


@pytest.mark.parametrize("client", ["gate", ":secret", ""])
async def test_a_clients_credential_of_another_form_is_sent_nowhere(
    desk: Office, bad: Endpoint, client: str
) -> None:
    desk.environment["GATE_CLIENT"] = client
    expected = "oauth_bad_client" if client else "no_credential"

    answer = await desk.call(role_at(bad.url))

    assert isinstance(answer.outcome, Done) is False
    assert getattr(answer.outcome, "code", "") == expected
    assert bad.asked == []


async def test_nobody_at_home_and_a_certificate_of_a_stranger_have_codes_of_their_own(
    desk: Office, tmp_path: Path
) -> None:
    certificates(tmp_path)
    with endpoint(tmp_path) as stranger:
        assert code(await desk.call(role_at(stranger.url))) == "oauth_tls"
        assert stranger.asked == []
    gone = failure(await desk.call(role_at(stranger.url)))
    assert (gone.code, gone.retryable) == ("oauth_unreachable", True)


async def test_the_error_of_a_request_that_failed_does_not_bring_the_request_along(
    desk: Office, bad: Endpoint
) -> None:
    bad.when_asked = _break_off
    with pytest.raises(CredentialUnavailable) as refused:
        await desk.source.lend(desk.wanted(role_at(bad.url)))

    assert refused.value.code == "oauth_unreachable"
    assert refused.value.__context__ is None


def _break_off() -> None:
    raise ConnectionError


async def test_an_endpoint_that_hangs_or_trickles_holds_up_nobody_else(
    idp: IdentityProvider, desk: Office, bad: Endpoint
) -> None:
    bad.hang()
    with endpoint() as slow:
        slow.trickles = True
        waiting = [
            asyncio.create_task(desk.call(role_at(one.url, scope=f"desk:{n}")))
            for n in range(12)
            for one in (bad, slow)
        ]
        async with asyncio.timeout(30):
            while len(bad.asked) < 8 or len(slow.asked) < 8:
                await asyncio.sleep(0.01)
            assert code(await desk.call(role_at(idp.token_url))) == "done"
            assert not any(task.done() for task in waiting), "they wait still"
            assert len(bad.asked) == len(slow.asked) == 8, "one endpoint is asked so much at a time"
            ended = [failure(answer) for answer in await asyncio.gather(*waiting)]

    assert {(failed.code, failed.retryable) for failed in ended} == {("oauth_slow", True)}


async def test_an_endpoint_that_takes_no_connection_is_given_up_soon(desk: Office) -> None:
    with closing(socket.create_server(("127.0.0.1", 0), backlog=0)) as full:
        port = full.getsockname()[1]
        with closing(socket.create_connection(("127.0.0.1", port))):
            failed = failure(await desk.call(role_at(f"http://127.0.0.1:{port}/token")))

    assert (failed.code, failed.retryable) == ("oauth_unreachable", True)


async def test_calls_that_wait_for_the_same_answer_fail_with_it(desk: Office, bad: Endpoint) -> None:
    bad.says(503)
    answers = await asyncio.gather(*(desk.call(role_at(bad.url)) for _ in range(20)))

    assert {code(answer) for answer in answers} == {"oauth_server_error"}
    assert len(bad.asked) < 20


async def test_neither_the_environment_nor_a_servers_cookies_change_what_is_sent(
    desk: Office, bad: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    bad.headers["Set-Cookie"] = "who=acme"
    await desk.call(role_at(bad.url))
    await desk.call(role_at(bad.url, scope="desk:write"))

    assert len(bad.asked) == 2
    assert all("cookie" not in heard for heard in bad.heard)


@pytest.mark.parametrize(
    ("said", "kept"),
    [("r-1.2:3/x", "r-1.2:3/x"), ("", ""), ("a b", ""), ("r" * 65, ""), ("r-\xe9", "")],
)
async def test_the_servers_id_of_the_request_stands_in_the_ledger_if_it_is_one(
    desk: Office, bad: Endpoint, said: str, kept: str
) -> None:
    bad.headers["X-Request-Id"] = said
    await desk.call(role_at(bad.url))

    assert desk.entries()[0].get("request", "") == kept


async def test_a_narrower_scope_is_what_the_ledger_says(desk: Office, bad: Endpoint) -> None:
    bad.says(scope="desk:read")
    await desk.call(role_at(bad.url, scope="desk:read desk:write"))
    bad.says(scope="canary-in-an-answer-5d1")
    await desk.call(role_at(bad.url, scope=""))

    assert [entry["scope"] for entry in desk.entries() if entry["status"] == "lent"] == [
        f"{DESK} desk:read",
        DESK,
    ]


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("https://id.example.com/token", ""),
        ("http://127.0.0.1:1/token", ""),
        ("http://127.8.9.1:1/token", ""),
        ("http://[::1]:1/token", ""),
        ("http://localhost/token", ""),
        (
            "http://id.example.com/token",
            "its token_url is http, and secrets would be sent for anybody to read",
        ),
        ("http://10.0.0.1/token", "its token_url is http, and secrets would be sent for anybody to read"),
        (
            "http://localhost.example.com/",
            "its token_url is http, and secrets would be sent for anybody to read",
        ),
        ("https://gate:secret@id.example.com/", "its token_url holds a user"),
        ("https://id.example.com/token#x", "its token_url has a fragment"),
    ],
)
async def test_secrets_are_sent_over_tls_or_stay_on_this_machine(
    desk: Office, url: str, problem: str
) -> None:
    role = role_at(url)

    assert [said for said, _ in oauth_faults(role)] == ([problem] if problem else [])
    if problem:
        assert code(await desk.call(role)) == "oauth_refused"


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"grant": "token_exchange", "resource": ""}, "say whom the token is for"),
        ({"issuer": "https://id.example.com"}, "only token_exchange"),
        ({"sign_in": "basic"}, "an access token signs in"),
        ({"sign_in": "none"}, "an access token signs in"),
        ({"resource": "https://desk.example.com/#x"}, "should match pattern"),
        ({"resource": "desk"}, "should match pattern"),
        ({"scope": "a  b"}, "should match pattern"),
        ({"scope": 'a"b'}, "should match pattern"),
        ({"token_url": "ftp://id.example.com"}, "URL scheme"),
    ],
)
def test_a_role_that_makes_no_sense_is_not_read(said: dict[str, str], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        role_at(**({"token_url": "https://id.example.com/token"} | said))
