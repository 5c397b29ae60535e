"""Tokens that only their issuer can read: what it says of them, how long that holds, who is shown them."""

import asyncio
import base64
import json
import threading
import time
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from pydantic import SecretStr, ValidationError

from tests.key_server import AUDIENCE, ISSUER, claims, encoded, key_server, sign
from toolgate.backends.introspection import MOST_REMEMBERED, NO_SECONDS, REST_SECONDS
from toolgate.backends.jwt_callers import LONGEST_TOKEN
from toolgate.backends.token_callers import TokenCallers
from toolgate.core.errors import CredentialUnavailable
from toolgate.core.identity import BadToken, Introspection, IssuerUnavailable, TrustedIssuer

pytestmark = pytest.mark.anyio

OTHER = "https://other.example.com"
INACTIVE = "its issuer says that it is not good, or not any more"
UNANSWERED = "its issuer cannot be asked about it"
NO_JWT = "it is not a signed JSON Web Token"


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Endpoint:
    """An introspection endpoint that says what a test wants, and keeps what it was sent."""

    url: str = ""
    status: int = 200
    text: str | None = None
    """In place of what `said` says."""
    said: dict[str, Any] = field(default_factory=dict[str, Any])
    forms: list[dict[str, list[str]]] = field(default_factory=list[dict[str, list[str]]])
    signed_in: list[str] = field(default_factory=list[str])
    elsewhere: int = 0
    """How often somebody went where its redirects lead."""
    hangs: threading.Event = field(default_factory=threading.Event)
    """Clear while it hangs."""

    @property
    def shown(self) -> list[str]:
        return [form["token"][0] for form in self.forms]


def good(**more: Any) -> dict[str, Any]:  # noqa: ANN401 - anything that an issuer may say
    """Say what a good token is worth; a value of None leaves it out."""
    said = {"active": True, "iss": ISSUER, "aud": AUDIENCE, "sub": "mia", "token_type": "Bearer", **more}
    return {name: value for name, value in said.items() if value is not None}


@pytest.fixture
def endpoint() -> Generator[Endpoint]:
    kept = Endpoint(said=good())
    kept.hangs.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = parse_qs(
                self.rfile.read(int(self.headers["Content-Length"])).decode(), strict_parsing=True
            )
            kept.forms.append(form)
            kept.signed_in.append(self.headers.get("Authorization", ""))
            kept.hangs.wait(30)
            body = (kept.text if kept.text is not None else json.dumps(kept.said)).encode()
            self.send_response(kept.status)
            self.send_header("Location", f"{kept.url}/elsewhere")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            kept.elsewhere += 1
            body = json.dumps(kept.said).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        kept.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield kept
        finally:
            kept.hangs.set()
            server.shutdown()
            thread.join()


def trusted(endpoint: Endpoint, issuer: str = ISSUER, **more: Any) -> TrustedIssuer:  # noqa: ANN401
    asked = {"endpoint": endpoint.url, "client_id": "gate at/work", "secret": "idp"}
    asked |= {name: more.pop(name) for name in ("prefix", "cache_seconds") if name in more}
    said = {"issuer": issuer, "introspection": asked, "tenant": "acme", "roles_claim": "realm.roles"}
    return TrustedIssuer.model_validate(said | more)


async def secret_of(where: Introspection) -> SecretStr:
    assert where.secret == "idp"
    return SecretStr("p+s %w:o&r=d")


def opened(*issuers: TrustedIssuer, clock: Clock | None = None) -> TokenCallers:
    return TokenCallers(
        issuers, audience=AUDIENCE, root=Path(), secret_of=secret_of, clock=clock or time.monotonic
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def callers(endpoint: Endpoint, clock: Clock) -> AsyncGenerator[TokenCallers]:
    known = opened(trusted(endpoint), clock=clock)
    yield known
    await known.aclose()


async def refusal(callers: TokenCallers, token: str = "opaque") -> str:  # noqa: S107 - no real one
    with pytest.raises((BadToken, IssuerUnavailable)) as refused:
        await callers.caller_of(token)
    return str(refused.value)


async def test_an_active_token_names_its_caller(callers: TokenCallers, endpoint: Endpoint) -> None:
    endpoint.said = good(
        client_id="ide",
        scope="crm:read crm:write",
        realm={"roles": ["support"]},
        aud=["x", AUDIENCE],
        act={"sub": "agent"},
    )
    caller = await callers.caller_of("opaque")

    assert (caller.subject, caller.issuer, caller.tenant, caller.client) == ("mia", ISSUER, "acme", "ide")
    assert caller.scopes == {"crm:read", "crm:write"}
    assert caller.roles == {"support"}
    assert caller.act == ("agent",)
    assert endpoint.forms == [{"token": ["opaque"], "token_type_hint": ["access_token"]}]


async def test_the_gate_signs_in_as_rfc_6749_says(callers: TokenCallers, endpoint: Endpoint) -> None:
    await callers.caller_of("opaque")

    kind, _, said = endpoint.signed_in[0].partition(" ")
    assert kind == "Basic"
    assert base64.b64decode(said).decode() == "gate+at%2Fwork:p%2Bs+%25w%3Ao%26r%3Dd"


NOW = int(time.time())
FORM = "its claims are not of the expected form"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"active": False}, INACTIVE),
        (good(active=False), INACTIVE),
        (good(iss=OTHER), "its issuer is not trusted here"),
        (good(aud=None), "it was not issued for this server"),
        (good(aud="https://other.example.com/mcp"), "it was not issued for this server"),
        (good(aud=[f"{AUDIENCE}/"]), "it was not issued for this server"),
        (good(sub=None), "it names no subject"),
        (good(sub=""), "it names no subject"),
        (good(token_type="DPoP"), "it is not a bearer token"),
        (good(token_type="Refresh"), "it is not a bearer token"),
        (good(cnf={"jkt": "x"}), "it is bound to a key, which this server does not check (DPoP, mutual TLS)"),
        (good(exp=NOW - 60), "it has expired"),
        (good(nbf=NOW + 6000), "it is not valid yet"),
        (good(iat=NOW + 6000), "it is not valid yet"),
        (good(sub="\ud800"), UNANSWERED),
        (good(scope=7), FORM),
        (good(realm={"roles": {"admin": True}}), FORM),
        (good(active="true"), UNANSWERED),
        (good(active=1), UNANSWERED),
        (good(active=None), UNANSWERED),
        (good(exp=str(NOW + 60)), UNANSWERED),
        (good(sub=7), UNANSWERED),
    ],
)
async def test_what_is_not_good_here_is_refused_with_the_reason(
    callers: TokenCallers, endpoint: Endpoint, said: dict[str, Any], reason: str
) -> None:
    endpoint.said = said

    assert await refusal(callers) == reason


@pytest.mark.parametrize("said", [good(iss=None), good(token_type=None), good(token_type="bearer")])
async def test_what_an_issuer_need_not_say_may_be_left_out(
    callers: TokenCallers, endpoint: Endpoint, said: dict[str, Any]
) -> None:
    endpoint.said = said

    assert (await callers.caller_of("opaque")).subject == "mia"


async def test_clocks_may_differ_by_the_leeway(callers: TokenCallers, endpoint: Endpoint) -> None:
    now = int(time.time())
    endpoint.said = good(exp=now - 1, nbf=now + 2, iat=now + 2)

    assert (await callers.caller_of("opaque")).subject == "mia"


async def test_many_calls_with_one_token_ask_once(
    callers: TokenCallers, endpoint: Endpoint, clock: Clock
) -> None:
    found = await asyncio.gather(*(callers.caller_of("opaque") for _ in range(50)))
    clock.now += 29
    await callers.caller_of("opaque")

    assert {caller.subject for caller in found} == {"mia"}
    assert len(endpoint.forms) == 1


async def test_a_revoked_token_ends_when_its_answer_is_no_longer_believed(
    callers: TokenCallers, endpoint: Endpoint, clock: Clock
) -> None:
    await callers.caller_of("opaque")
    endpoint.said = {"active": False}
    clock.now += 31

    assert await refusal(callers) == INACTIVE
    assert await refusal(callers) == INACTIVE
    assert len(endpoint.forms) == 2, "a no is believed, too"

    endpoint.said = good()
    clock.now += NO_SECONDS + 1
    assert (await callers.caller_of("opaque")).subject == "mia"


async def test_an_answer_is_not_believed_beyond_the_tokens_end(
    callers: TokenCallers, endpoint: Endpoint, clock: Clock
) -> None:
    endpoint.said = good(exp=int(time.time()) + 10)
    await callers.caller_of("opaque")
    clock.now += 11
    await callers.caller_of("opaque")

    assert len(endpoint.forms) == 2


async def test_an_answer_may_be_believed_for_this_call_only(endpoint: Endpoint) -> None:
    callers = opened(trusted(endpoint, cache_seconds=0))
    for _ in range(3):
        await callers.caller_of("opaque")
    await callers.aclose()

    assert len(endpoint.forms) == 3


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (500, ""),
        (503, "{}"),
        (429, ""),
        (302, ""),
        (401, '{"error": "invalid_client"}'),
        (400, '{"error": "unsupported_token_type"}'),
        (201, json.dumps(good())),
        (200, ""),
        (200, "not JSON"),
        (200, "[]"),
        (200, "[" * 100_000),
        (200, json.dumps(good(more="x" * 300_000))),
    ],
)
async def test_an_issuer_that_gives_no_answer_lets_nobody_in_and_condemns_no_token(
    callers: TokenCallers, endpoint: Endpoint, clock: Clock, status: int, text: str
) -> None:
    endpoint.status, endpoint.text = status, text
    assert await refusal(callers) == UNANSWERED

    endpoint.status, endpoint.text = 200, None
    clock.now += REST_SECONDS + 0.1
    assert (await callers.caller_of("opaque")).subject == "mia"


async def test_tokens_that_an_issuer_has_enough_of_do_not_shut_out_those_that_were_good(
    callers: TokenCallers, endpoint: Endpoint, clock: Clock
) -> None:
    assert (await callers.caller_of("opaque")).subject == "mia"
    clock.now += 3600
    endpoint.status, endpoint.text = 429, None
    assert await refusal(callers, "invented") == UNANSWERED
    endpoint.status = 200

    assert await refusal(callers, "unheard-of") == UNANSWERED
    assert (await callers.caller_of("opaque")).subject == "mia"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(callers: TokenCallers, endpoint: Endpoint, status: int) -> None:
    endpoint.status = status

    assert await refusal(callers) == UNANSWERED
    assert (endpoint.elsewhere, len(endpoint.forms)) == (0, 1)


async def test_an_issuer_that_is_down_is_left_alone_for_a_while_and_those_it_vouched_for_stay(
    callers: TokenCallers, endpoint: Endpoint, clock: Clock
) -> None:
    await callers.caller_of("known")
    endpoint.status = 500
    for number in range(20):
        assert await refusal(callers, f"t{number}") == UNANSWERED
    assert len(endpoint.forms) == 2

    assert (await callers.caller_of("known")).subject == "mia"
    clock.now += 31
    assert await refusal(callers, "known") == UNANSWERED, "nobody is believed for longer than was said"


async def test_tokens_that_an_issuer_rejects_as_such_do_not_keep_others_out(
    callers: TokenCallers, endpoint: Endpoint
) -> None:
    endpoint.status = 400
    assert await refusal(callers, "odd") == UNANSWERED
    endpoint.status = 200

    assert (await callers.caller_of("opaque")).subject == "mia"


async def test_an_issuer_that_cannot_be_reached_lets_nobody_in(endpoint: Endpoint) -> None:
    callers = opened(trusted(Endpoint(url="http://127.0.0.1:9")))

    assert await refusal(callers) == UNANSWERED
    await callers.aclose()


async def test_who_hangs_up_takes_the_answer_from_nobody(callers: TokenCallers, endpoint: Endpoint) -> None:
    endpoint.hangs.clear()
    first = asyncio.create_task(callers.caller_of("opaque"))
    second = asyncio.create_task(callers.caller_of("opaque"))
    async with asyncio.timeout(10):
        while not endpoint.forms:
            await asyncio.sleep(0.01)
        first.cancel()
        endpoint.hangs.set()
        caller = await second

    assert caller.subject == "mia"
    assert len(endpoint.forms) == 1


async def test_without_its_secret_the_issuer_is_not_asked(
    endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    async def none(_: Introspection) -> SecretStr:
        raise CredentialUnavailable("no_credential", "the keystore has no entry 'idp'", retryable=False)

    callers = TokenCallers([trusted(endpoint)], audience=AUDIENCE, root=Path(), secret_of=none)
    assert await refusal(callers) == UNANSWERED
    await callers.aclose()

    assert endpoint.forms == []
    assert "the keystore has no entry 'idp'" in caplog.text


async def test_no_token_is_logged(
    callers: TokenCallers, endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.status = 500
    endpoint.text = "you sent opaque-canary"
    await refusal(callers, "opaque-canary")

    assert "gave no answer: HTTP 500" in caplog.text
    assert "opaque-canary" not in caplog.text


async def test_more_tokens_than_are_remembered_are_still_good(
    callers: TokenCallers, endpoint: Endpoint
) -> None:
    about: object = vars(callers)["_asked"][0].about
    remembered: dict[bytes, object] = vars(about)["_good"]
    await callers.caller_of("first")
    verdict = next(iter(remembered.values()))
    remembered.update({str(number).encode(): verdict for number in range(MOST_REMEMBERED)})
    del remembered[next(iter(remembered))]

    await callers.caller_of("last")
    assert len(remembered) == MOST_REMEMBERED
    assert (await callers.caller_of("first")).subject == "mia"
    assert endpoint.shown == ["first", "last", "first"]


def sealed(said: object) -> str:
    """Spell what looks like an encrypted token whose header says this."""
    return f"{encoded(said)}.key.nonce.text.tag"


async def test_a_token_is_shown_to_no_issuer_but_its_own(endpoint: Endpoint) -> None:
    """Keys verify signed tokens, where an issuer has some; what names nobody we ask is shown to nobody."""
    with key_server() as keys:
        callers = opened(
            keys.trusted(issuer=OTHER),
            trusted(endpoint, jwks_uri=keys.uri),
        )
        assert (await callers.caller_of(sign(claims()))).issuer == ISSUER
        assert (await callers.caller_of(sign(claims(iss=OTHER)))).issuer == OTHER
        for token, reason in _TO_NOBODY.items():
            assert await refusal(callers, token) == reason, token
        assert endpoint.forms == []

        for token in (
            "opaque",
            "with.dots",
            "three.dots.it-has",
            sealed({"iss": ISSUER}),
            sealed({"enc": "x"}),
        ):
            assert (await callers.caller_of(token)).subject == "mia"
        await callers.aclose()


_TO_NOBODY = {
    sign(claims(iss="https://stranger.example.com")): "its issuer is not trusted here",
    sign(claims("iss")): "its issuer is not trusted here",
    sign(claims(iss=7)): "its issuer is not trusted here",
    sign(claims(), "other", kid="EdDSA"): "its signature is not good",
    sealed({"iss": OTHER}): NO_JWT,
    sealed({"iss": "https://stranger.example.com"}): NO_JWT,
    "two words": NO_JWT,
    'quo"te': NO_JWT,
    "\ud800": FORM,
    "x" * (LONGEST_TOKEN + 1): "it is too long",
}


async def test_of_an_issuer_without_keys_signed_tokens_are_asked_about_too(endpoint: Endpoint) -> None:
    callers = opened(trusted(endpoint, prefix="own_"))
    token = sign(claims())

    assert (await callers.caller_of(token)).subject == "mia"
    assert endpoint.shown == [token]
    assert await refusal(callers, sign(claims(iss=OTHER))) == "its issuer is not trusted here"
    await callers.aclose()


async def test_of_several_issuers_the_one_is_asked_whose_tokens_begin_like_it(endpoint: Endpoint) -> None:
    callers = opened(
        trusted(endpoint, OTHER, prefix="other_"), trusted(endpoint, ISSUER, prefix="own_", tenant="own")
    )

    assert (await callers.caller_of("own_1")).tenant == "own"
    endpoint.said = good(iss=OTHER)
    assert (await callers.caller_of("other_1")).issuer == OTHER
    assert await refusal(callers, "nobodys_1") == NO_JWT
    assert endpoint.shown == ["own_1", "other_1"]
    await callers.aclose()


async def test_a_scope_may_be_worth_others(endpoint: Endpoint) -> None:
    implied = {"crm": ["crm:write"], "crm:write": ["crm:read"], "loop": ["loop"]}
    callers = opened(trusted(endpoint, implies=implied))
    endpoint.said = good(scope="crm loop")

    assert (await callers.caller_of("opaque")).scopes == {"crm", "crm:write", "crm:read", "loop"}
    await callers.aclose()


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"endpoint": "nothing"}, "valid URL"),
        ({"client_id": ""}, "at least 1 character"),
        ({"prefix": "a b"}, "match pattern"),
        ({"cache_seconds": 301}, "less than or equal to 300"),
        ({"from": "env", "secret": "no variable"}, "name of a variable"),
        ({"from": "vault"}, "'file' or 'env'"),
        ({"client_secret": "x"}, "Extra inputs"),
    ],
)
def test_what_makes_no_sense_is_refused(said: dict[str, Any], problem: str) -> None:
    usual = {"endpoint": "https://id.example.com/introspect", "client_id": "gate", "secret": "idp"}
    with pytest.raises(ValidationError, match=problem):
        Introspection.model_validate(usual | said)


def test_an_issuer_has_keys_or_can_be_asked(endpoint: Endpoint) -> None:
    with pytest.raises(ValidationError, match="or introspection"):
        TrustedIssuer(issuer=ISSUER, tenant="acme")
    with pytest.raises(ValidationError, match="exactly one of jwks_uri and jwks_file"):
        trusted(endpoint, jwks_uri="https://x", jwks_file="keys.json")
