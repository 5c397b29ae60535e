"""Whose token comes in: access tokens against an issuer whose keys are served over HTTP."""

import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.key_server import (
    ALGORITHMS,
    AUDIENCE,
    ISSUER,
    KeyServer,
    claims,
    encoded,
    key_server,
    sign,
    signed_with_the_public_key,
    unsigned,
)
from toolgate.backends.jwt_callers import LONGEST_TOKEN, JwtCallers
from toolgate.core.identity import BadToken

pytestmark = pytest.mark.anyio


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with key_server() as served:
        yield served


@pytest.fixture
async def callers(server: KeyServer, tmp_path: Path) -> AsyncGenerator[JwtCallers]:
    opened = JwtCallers([server.trusted()], audience=AUDIENCE, root=tmp_path)
    yield opened
    await opened.aclose()


async def refusal(callers: JwtCallers, token: str) -> str:
    with pytest.raises(BadToken) as refused:
        await callers.caller_of(token)
    return str(refused.value)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_token_of_the_issuer_names_its_caller(callers: JwtCallers, algorithm: str) -> None:
    said = claims(
        client_id="ide",
        scope="crm:read crm:write",
        realm={"roles": ["support", "auditor"]},
        aud=["x", AUDIENCE],
    )
    caller = await callers.caller_of(sign(said, algorithm))

    assert (caller.subject, caller.issuer, caller.tenant, caller.client) == ("mia", ISSUER, "acme", "ide")
    assert caller.scopes == {"crm:read", "crm:write"}
    assert caller.roles == {"support", "auditor"}
    assert caller.act == ()


NOW = int(time.time())
BOUND = "it is bound to a key, which this server does not check (DPoP, mutual TLS)"
FORM, LACKS = (
    "its claims are not of the expected form",
    "it lacks a claim that it must have (exp, iss, aud, sub)",
)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (claims(aud="https://other.example.com/mcp"), "it was not issued for this server"),
        (claims(aud=f"{AUDIENCE}/"), "it was not issued for this server"),
        (claims(aud=[]), LACKS),
        (claims("aud"), LACKS),
        (claims("exp"), LACKS),
        (claims("sub"), LACKS),
        (claims(sub=""), "it names no subject"),
        (
            claims(cnf={"jkt": "x"}),
            "it is bound to a key, which this server does not check (DPoP, mutual TLS)",
        ),
        (claims(exp=NOW - 60), "it has expired"),
        (claims(nbf=NOW + 6000), "it is not valid yet"),
        (claims(iat=NOW + 6000), "it is not valid yet"),
        (claims(iss="https://evil.example.com"), "its issuer is not trusted here"),
        (claims(iss=f"{ISSUER}/"), "its issuer is not trusted here"),
        (claims("iss"), "its issuer is not trusted here"),
        (claims(iss=[ISSUER]), "its issuer is not trusted here"),
        (claims(exp=str(NOW + 86_400)), FORM),
        (claims(sub="\ud800"), FORM),
        (claims(scope=7), FORM),
        (claims(scope=["a", 7]), FORM),
        (claims(realm={"roles": {"admin": True}}), FORM),
        (claims(sub=7), "it is not a signed JSON Web Token"),
    ],
)
async def test_a_signed_token_that_says_something_else_is_refused_with_the_reason(
    callers: JwtCallers,
    said: dict[str, Any],
    reason: str,
) -> None:
    assert await refusal(callers, sign(said)) == reason


async def test_a_token_of_a_second_ago_is_within_the_leeway(callers: JwtCallers) -> None:
    token = sign(claims(exp=int(time.time()) - 1, nbf=int(time.time()) + 2))

    assert (await callers.caller_of(token)).subject == "mia"


async def test_a_token_that_the_issuer_did_not_sign_is_refused(
    callers: JwtCallers,
) -> None:
    good = sign(claims())
    head, _, signature = good.split(".")

    assert await refusal(callers, sign(claims(), "other", kid="EdDSA")) == "its signature is not good"
    assert (
        await refusal(callers, f"{head}.{encoded(claims(sub='boss'))}.{signature}")
        == "its signature is not good"
    )
    assert await refusal(callers, sign(claims(), "ES256", kid="RS256")) == "its signature is not good"
    assert (
        await refusal(callers, unsigned(claims()))
        == "it is signed with a key that its issuer does not publish"
    )
    for name in ALGORITHMS:
        forged = signed_with_the_public_key(claims(), name)
        assert await refusal(callers, forged) == "its signature is not good"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_an_unsigned_token_is_refused_even_with_the_name_of_a_key(
    callers: JwtCallers, algorithm: str
) -> None:
    assert await refusal(callers, unsigned(claims(), kid=algorithm)) == "its signature is not good"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "a.b.c",
        "...",
        "é.è.à",
        "\ud800",
        f"{encoded([])}.{encoded({})}.x",
        f"{encoded({'alg': 'EdDSA'})}.{encoded([ISSUER])}.x",
        f"{encoded({'alg': 'EdDSA', 'kid': ['a']})}.{encoded(claims())}.x",
        f"{encoded({'alg': 'EdDSA'})}.{'W1tb' * 2000}.x",
    ],
)
async def test_garbage_is_refused_and_asks_nobody(callers: JwtCallers, server: KeyServer, token: str) -> None:
    await refusal(callers, token)

    assert server.asked == 0


async def test_a_token_that_is_too_long_is_refused_before_it_is_read(callers: JwtCallers) -> None:
    assert await refusal(callers, sign(claims(more="x" * LONGEST_TOKEN))) == "it is too long"


async def test_an_issuer_may_sign_only_with_what_is_believed_of_it(
    server: KeyServer,
    tmp_path: Path,
) -> None:
    callers = JwtCallers([server.trusted(algorithms=["ES256"])], audience=AUDIENCE, root=tmp_path)

    assert (await callers.caller_of(sign(claims(), "ES256"))).subject == "mia"
    assert await refusal(callers, sign(claims(), "RS256")) == "its signature is not good"
    await callers.aclose()


@pytest.mark.parametrize(
    ("said", "tenant"),
    [
        ({"org": {"id": "acme"}}, "acme"),
        ({"org.id": "globex"}, "globex"),
        ({"org": {"id": "evil"}}, None),
        ({"org": {"id": ["acme"]}}, None),
        ({"org": "acme"}, None),
        ({}, None),
    ],
)
async def test_an_issuer_speaks_only_for_the_tenants_that_are_listed(
    server: KeyServer,
    tmp_path: Path,
    said: dict[str, Any],
    tenant: str | None,
) -> None:
    issuer = server.trusted(tenant=None, tenant_claim="org.id", tenants=["acme", "globex"])
    callers = JwtCallers([issuer], audience=AUDIENCE, root=tmp_path)
    token = sign(claims(**said))

    if tenant is None:
        await refusal(callers, token)
    else:
        assert (await callers.caller_of(token)).tenant == tenant
    await callers.aclose()


@pytest.mark.parametrize(
    ("said", "scopes", "roles"),
    [
        ({"scope": "b  a"}, {"a", "b"}, set[str]()),
        ({"scope": ["a b", "c"]}, {"a b", "c"}, set[str]()),
        ({"realm": {"roles": "lead support"}}, set[str](), {"lead", "support"}),
        ({"realm.roles": ["whole"], "realm": {"roles": ["part"]}}, set[str](), {"whole"}),
        ({"realm": "lead", "roles": ["lead"], "scope": None}, set[str](), set[str]()),
    ],
)
async def test_scopes_and_roles_are_a_text_of_words_or_a_list(
    callers: JwtCallers,
    said: dict[str, Any],
    scopes: set[str],
    roles: set[str],
) -> None:
    caller = await callers.caller_of(sign(claims(**said)))

    assert caller.scopes == scopes
    assert caller.roles == roles


async def test_without_a_roles_claim_a_token_gives_no_roles(
    server: KeyServer,
    tmp_path: Path,
) -> None:
    callers = JwtCallers([server.trusted(roles_claim=None)], audience=AUDIENCE, root=tmp_path)

    assert (await callers.caller_of(sign(claims(roles=["boss"], azp="web")))).roles == frozenset()
    await callers.aclose()


async def test_those_who_act_for_the_subject_are_named_nearest_first(callers: JwtCallers) -> None:
    chain: dict[str, Any] = {"sub": "first"}
    for name in ("second", "third"):
        chain = {"sub": name, "act": chain}
    endless: dict[str, Any] = {"sub": "x"}
    for _ in range(50):
        endless = {"sub": "x", "act": endless}

    assert (await callers.caller_of(sign(claims(act=chain)))).act == ("third", "second", "first")
    assert len((await callers.caller_of(sign(claims(act=endless)))).act) == 8
    assert (await callers.caller_of(sign(claims(act="agent")))).act == ()
