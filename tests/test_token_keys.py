"""What callers notice when their issuer changes, withdraws or loses its keys; and the issuer of dev mode."""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from tests.key_server import AUDIENCE, KeyServer, claims, key_server, private_key, public_jwk, sign
from toolgate.backends import dev_issuer
from toolgate.backends.jwks import BURST, LONGEST_TRUST_SECONDS, RETRY_SECONDS, SOONEST_SECONDS
from toolgate.backends.jwt_callers import JwtCallers
from toolgate.core.call import Caller
from toolgate.core.identity import BadToken, IssuerUnavailable, TrustedIssuer

pytestmark = pytest.mark.anyio

UNPUBLISHED = "it is signed with a key that its issuer does not publish"
UNREADABLE = "the keys of its issuer cannot be read"
REFRESH_SECONDS: float = TrustedIssuer.model_fields["jwks_seconds"].default


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with key_server() as served:
        yield served


@pytest.fixture
async def callers(server: KeyServer, clock: Clock, tmp_path: Path) -> AsyncGenerator[JwtCallers]:
    opened = JwtCallers([server.trusted()], audience=AUDIENCE, root=tmp_path, clock=clock)
    yield opened
    await opened.aclose()


async def refusal(callers: JwtCallers, token: str) -> str:
    with pytest.raises((BadToken, IssuerUnavailable)) as refused:
        await callers.caller_of(token)
    return str(refused.value)


async def test_many_tokens_at_once_ask_the_issuer_once(callers: JwtCallers, server: KeyServer) -> None:
    found = await asyncio.gather(*(callers.caller_of(sign(claims(sub=f"u{n}"))) for n in range(20)))

    assert [caller.subject for caller in found] == [f"u{n}" for n in range(20)]
    assert server.asked == 1


async def test_a_new_key_is_known_with_the_first_token_that_it_signs(
    callers: JwtCallers, server: KeyServer, clock: Clock
) -> None:
    await callers.caller_of(sign(claims()))
    server.keys.append(public_jwk("new"))
    clock.now += SOONEST_SECONDS + 1

    assert (await callers.caller_of(sign(claims(), "new"))).subject == "mia"
    assert server.asked == 2


async def test_invented_key_ids_do_not_make_us_ask_the_issuer_again_and_again(
    callers: JwtCallers, server: KeyServer, clock: Clock
) -> None:
    for number in range(50):
        clock.now += SOONEST_SECONDS / 100
        assert await refusal(callers, sign(claims(), kid=f"k{number}")) == UNPUBLISHED
    assert server.asked == 1 + BURST

    clock.now += BURST * SOONEST_SECONDS + 1
    for number in range(50):
        assert await refusal(callers, sign(claims(), kid=f"k{number}")) == UNPUBLISHED
    assert server.asked == 1 + 2 * BURST


async def test_a_key_is_known_that_is_published_right_after_the_keys_were_read(
    callers: JwtCallers, server: KeyServer
) -> None:
    await callers.caller_of(sign(claims()))
    server.keys.append(public_jwk("new"))

    assert (await callers.caller_of(sign(claims(), "new"))).subject == "mia"


async def test_keys_may_be_read_more_often(server: KeyServer, tmp_path: Path, clock: Clock) -> None:
    callers = JwtCallers([server.trusted(jwks_seconds=7)], audience=AUDIENCE, root=tmp_path, clock=clock)
    token = sign(claims(), "ES256")
    await callers.caller_of(token)
    server.keys = []
    clock.now += 8

    assert await refusal(callers, token) == UNPUBLISHED
    await callers.aclose()


async def test_an_issuer_that_hangs_does_not_hold_up_the_callers_that_it_vouched_for(
    callers: JwtCallers, server: KeyServer, clock: Clock
) -> None:
    token = sign(claims())
    await callers.caller_of(token)
    server.hangs.clear()
    clock.now += REFRESH_SECONDS + 1
    try:
        async with asyncio.timeout(3):
            for _ in range(5):
                assert (await callers.caller_of(token)).subject == "mia"
            assert (await callers.caller_of(sign(claims(sub="rob")))).subject == "rob"
    finally:
        server.hangs.set()


async def test_who_hangs_up_while_keys_are_read_takes_them_from_nobody(
    callers: JwtCallers, server: KeyServer
) -> None:
    server.hangs.clear()
    first = asyncio.create_task(callers.caller_of(sign(claims())))
    second = asyncio.create_task(callers.caller_of(sign(claims(sub="rob"))))
    while not server.asked:
        await asyncio.sleep(0.01)
    first.cancel()
    server.hangs.set()

    assert (await asyncio.wait_for(second, 5)).subject == "rob"
    assert server.asked == 1


async def test_a_known_token_costs_no_question_until_keys_are_old(
    callers: JwtCallers, server: KeyServer, clock: Clock
) -> None:
    token = sign(claims())
    for _ in range(5):
        await callers.caller_of(token)
    clock.now += REFRESH_SECONDS
    await callers.caller_of(token)
    assert server.asked == 1

    clock.now += 1
    await callers.caller_of(token)
    assert server.asked == 2


@pytest.mark.parametrize("left", [[], ["RS256"]], ids=["no key left", "another key left"])
async def test_a_withdrawn_key_ends_the_tokens_that_it_signed(
    callers: JwtCallers, server: KeyServer, clock: Clock, left: list[str]
) -> None:
    token = sign(claims(), "ES256")
    await callers.caller_of(token)
    server.keys = [public_jwk(name) for name in left]
    clock.now += REFRESH_SECONDS + 1

    assert await refusal(callers, token) == UNPUBLISHED
    for name in left:
        assert (await callers.caller_of(sign(claims(), name))).subject == "mia"


async def test_a_key_that_was_replaced_under_its_id_ends_the_tokens_that_it_signed(
    callers: JwtCallers, server: KeyServer, clock: Clock
) -> None:
    token = sign(claims(), "EdDSA")
    await callers.caller_of(token)
    server.keys = [public_jwk("another", kid="EdDSA")]
    clock.now += REFRESH_SECONDS + 1

    assert await refusal(callers, token) == "its signature is not good"
    assert (await callers.caller_of(sign(claims(), "another", kid="EdDSA"))).subject == "mia"


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (500, ""),
        (302, ""),
        (200, "not JSON"),
        (200, "[]"),
        (200, '{"keys": {"a": 1}}'),
        (200, '{"keys": [1]}'),
        (200, "[" * 100_000),
        (200, json.dumps({"keys": [], "more": "x" * 300_000})),
    ],
)
async def test_an_issuer_that_answers_badly_is_refused_at_first_and_kept_by_its_last_keys_later(
    server: KeyServer, tmp_path: Path, status: int, text: str
) -> None:
    clock, token = Clock(), sign(claims())
    callers = JwtCallers([server.trusted()], audience=AUDIENCE, root=tmp_path, clock=clock)
    server.status, server.text = status, text
    assert await refusal(callers, token) == UNREADABLE

    server.status, server.text = 200, None
    clock.now += SOONEST_SECONDS + 1
    assert (await callers.caller_of(token)).subject == "mia"

    server.status, server.text = status, text
    clock.now += REFRESH_SECONDS + 1
    assert (await callers.caller_of(token)).subject == "mia"
    assert (await callers.caller_of(sign(claims(sub="rob")))).subject == "rob"

    clock.now += LONGEST_TRUST_SECONDS
    assert await refusal(callers, token) == UNREADABLE, "nobody is trusted by old keys for ever"

    server.status, server.text = 200, None
    clock.now += RETRY_SECONDS + 1
    assert (await callers.caller_of(token)).subject == "mia"
    await callers.aclose()


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "http://[::1", "gopher://x", "nothing", "http://\x00"])
async def test_an_issuer_that_cannot_be_reached_lets_nobody_in_and_breaks_nothing(
    tmp_path: Path, server: KeyServer, uri: str
) -> None:
    callers = JwtCallers([server.trusted(jwks_uri=uri)], audience=AUDIENCE, root=tmp_path)

    assert await refusal(callers, sign(claims())) == UNREADABLE
    await callers.aclose()


async def test_odd_keys_in_a_set_are_passed_over(callers: JwtCallers, server: KeyServer) -> None:
    server.keys += [
        {},
        {"kty": "RSA", "kid": "EdDSA", "n": "!", "e": 5},
        {"kty": ["EC"], "kid": "EdDSA"},
        {"kty": "XYZ", "kid": "EdDSA"},
        public_jwk("other", kid="EdDSA", use="enc"),
        public_jwk("other") | {"kid": ["EdDSA"]},
    ]

    assert (await callers.caller_of(sign(claims()))).subject == "mia"


async def test_a_token_without_a_key_id_is_good_where_there_is_one_key(
    server: KeyServer, tmp_path: Path
) -> None:
    token = sign(claims(), kid=None)
    server.keys = [public_jwk("EdDSA")]
    alone = JwtCallers([server.trusted()], audience=AUDIENCE, root=tmp_path)
    assert (await alone.caller_of(token)).subject == "mia"
    await alone.aclose()

    server.keys.append(public_jwk("other"))
    among_others = JwtCallers([server.trusted()], audience=AUDIENCE, root=tmp_path)
    assert await refusal(among_others, token) == UNPUBLISHED
    await among_others.aclose()


async def test_keys_may_lie_in_a_file_and_an_absent_one_lets_nobody_in(
    server: KeyServer, tmp_path: Path, clock: Clock
) -> None:
    issuer = server.trusted(jwks_uri=None, jwks_file="keys.json")
    callers = JwtCallers([issuer], audience=AUDIENCE, root=tmp_path, clock=clock)
    assert await refusal(callers, sign(claims())) == UNREADABLE

    (tmp_path / "keys.json").write_text(json.dumps({"keys": [public_jwk("EdDSA")]}), "utf-8")
    clock.now += SOONEST_SECONDS + 1
    assert (await callers.caller_of(sign(claims()))).subject == "mia"
    await callers.aclose()


async def test_a_remembered_token_ends_when_it_expires(server: KeyServer, tmp_path: Path) -> None:
    callers = JwtCallers([server.trusted(leeway=0)], audience=AUDIENCE, root=tmp_path)
    token = sign(claims(exp=claims()["iat"] + 2))
    await callers.caller_of(token)

    async def until_refused() -> str:
        while True:
            try:
                await callers.caller_of(token)
            except BadToken as refused:
                return str(refused)
            await asyncio.sleep(0)

    assert await asyncio.wait_for(until_refused(), timeout=30) == "it has expired"
    await callers.aclose()


async def test_more_tokens_than_are_remembered_are_still_good(callers: JwtCallers) -> None:
    first = sign(claims(sub="first"))
    await callers.caller_of(first)
    for number in range(10_001):
        await callers.caller_of(sign(claims(jti=str(number))))

    remembered: dict[bytes, object] = vars(callers)["_known"]
    assert len(remembered) <= 10_000
    assert (await callers.caller_of(first)).subject == "first"


DEV = TrustedIssuer(
    issuer=dev_issuer.ISSUER,
    jwks_file=dev_issuer.PUBLIC_KEYS,
    algorithms=("EdDSA",),
    tenant_claim="tenant",
    tenants=frozenset({"home"}),
    roles_claim="roles",
)
MIA = Caller(
    subject="mia",
    issuer=dev_issuer.ISSUER,
    tenant="home",
    client="ide",
    roles=frozenset({"member", "lead"}),
    scopes=frozenset({"notes:read"}),
)


async def test_a_token_of_dev_mode_names_the_caller_that_it_was_minted_for(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    dev_issuer.make_keys(tmp_path)
    callers = JwtCallers([DEV], audience=AUDIENCE, root=tmp_path)

    def mint(caller: Caller, *, audience: str = AUDIENCE, seconds: int = 600) -> str:
        return dev_issuer.mint(tmp_path, caller, audience=audience, seconds=seconds)

    assert await callers.caller_of(mint(MIA)) == MIA
    unnamed = MIA.model_copy(update={"client": ""})
    assert (await callers.caller_of(mint(unnamed))).client == "toolgate-token"
    assert await refusal(callers, mint(MIA, audience="https://x")) == "it was not issued for this server"
    assert await refusal(callers, mint(MIA, seconds=-60)) == "it has expired"
    stranger = MIA.model_copy(update={"tenant": "acme"})
    assert await refusal(callers, mint(stranger)) == "its issuer may not speak for that tenant"
    await callers.aclose()


def test_the_private_key_of_dev_mode_is_its_owners_and_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    dev_issuer.make_keys(tmp_path)

    assert (tmp_path / dev_issuer.PRIVATE_KEY).stat().st_mode & 0o777 == 0o600
    assert '"d"' not in (tmp_path / dev_issuer.PUBLIC_KEYS).read_text("utf-8")
    with pytest.raises(FileExistsError):
        dev_issuer.make_keys(tmp_path)


@pytest.mark.parametrize("key", [None, b"garbage", "ES256"])
def test_without_a_usable_key_no_token_is_minted(tmp_path: Path, key: str | bytes | None) -> None:
    (tmp_path / "keys").mkdir()
    if isinstance(key, str):
        key = private_key(key).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    if key is not None:
        (tmp_path / dev_issuer.PRIVATE_KEY).write_bytes(key)

    with pytest.raises(OSError, match=r"dev-issuer\.pem"):
        dev_issuer.mint(tmp_path, MIA, audience=AUDIENCE, seconds=60)
