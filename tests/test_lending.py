"""Which source lends a credential, and which never does; and what an adapter is told of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from pydantic import SecretStr

from tests.policies_for_tests import tool
from tests.scripted_system import World, admitted, an_act, done, the_time
from toolgate.adapter import Credential
from toolgate.backends.adapter_tools import AdapterTools
from toolgate.backends.env_secrets import EnvSource
from toolgate.backends.lending import Lending, Source, Static, Wanted
from toolgate.core.call import Call, Caller
from toolgate.core.claims import Opened
from toolgate.core.credential_roles import CredentialRole, EnvRole, FileRole, OAuthRole
from toolgate.core.errors import CredentialUnavailable
from toolgate.core.lease import Lease, LeaseSource, Lent
from toolgate.core.tool import Capture, Tool

pytestmark = [pytest.mark.anyio, pytest.mark.canaries]
CALL = Call(
    id="c1",
    caller=Caller(subject="mia", issuer="test", tenant="home"),
    tool="crm.find",
    arguments={},
    received_at=datetime(2026, 1, 1, tzinfo=UTC),
)
OPENED = Opened(call_id="c1", intent=7, remembered={})
FILE = FileRole(secret="crm", sign_in="bearer")
ENV = EnvRole.model_validate({"from": "env", "secret": "CLIENT", "sign_in": "basic"})
TOKEN = OAuthRole.model_validate(
    {
        "from": "oauth",
        "sign_in": "bearer",
        "grant": "client_credentials",
        "token_url": "https://id.example/token",
        "client": "gate",
    }
)


@dataclass
class Shelf(Static):
    """A source of static secrets that notes what came back."""

    secret: str = "from the shelf"
    back: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        super().__init__()

    async def lend(self, wanted: Wanted) -> Lease:
        return self.lease_of(wanted, "shelf", SecretStr(self.secret))

    async def take_back(self, lease: Lease, *, refused: bool = False) -> Lent:
        self.back.append(lease.lent.role)
        return lease.lent

    def faults(self, role: CredentialRole) -> Iterator[tuple[str, str]]:
        yield from ()


@dataclass
class Endpoint(Shelf):
    """A token endpoint that makes a token of the client's secret, or fails."""

    broken: bool = False
    clients: list[str] = field(default_factory=list[str])

    async def lend(self, wanted: Wanted) -> Lease:
        assert wanted.client is not None
        self.clients.append(wanted.client.get_secret_value())
        if self.broken:
            raise CredentialUnavailable("token_refused", "the endpoint did not give a token", retryable=True)
        lent = Lent(id="t1", role=wanted.name, source="oauth", kind="token", ttl=60, end="lapses")
        return Lease(secret=SecretStr("token"), lent=lent, until=CALL.received_at + timedelta(seconds=60))


def signing_in(
    role: CredentialRole | None, *, require_dynamic: bool = False, **helpers: CredentialRole
) -> Tool:
    made = tool("crm.find")
    terms = made.terms.model_copy(update={"credential": "agent", "require_dynamic": require_dynamic})
    return replace(made, terms=terms, credential=role, helpers=helpers)


async def refusal(lending: Lending, tool: Tool) -> tuple[str, bool]:
    with pytest.raises(CredentialUnavailable) as refused:
        await lending.lend(tool, CALL, OPENED)
    return refused.value.code, refused.value.retryable


async def test_a_tool_without_a_role_is_lent_nothing() -> None:
    lending = Lending({"file": Shelf()})

    assert await lending.lend(signing_in(None), CALL, OPENED) is None
    assert await lending.lend(signing_in(None, require_dynamic=True), CALL, OPENED) is None
    assert list(lending.faults(signing_in(None, require_dynamic=True))) == []


@pytest.mark.parametrize(
    ("role", "chosen"),
    [(FILE, {"env": EnvSource({"crm": "x"})}), (ENV, {"file": Shelf(), "oauth": Endpoint()}), (FILE, {})],
)
async def test_a_source_that_was_not_chosen_lends_nothing_and_no_other_steps_in(
    role: CredentialRole, chosen: Mapping[LeaseSource, Source]
) -> None:
    lending = Lending(chosen)

    ((problem, remedy),) = lending.faults(signing_in(role))
    assert f'from = "{role.source}", and this deployment has no such source' in problem
    assert remedy == f'add "{role.source}" to credentials in toolgate.toml'
    assert await refusal(lending, signing_in(role)) == ("no_credential", False)


async def test_a_source_that_has_nothing_is_not_replaced_by_another() -> None:
    shelf = Shelf()
    lending = Lending({"env": EnvSource({}), "file": shelf})

    assert [problem for problem, _ in lending.faults(signing_in(ENV))] == ["the environment has no CLIENT"]
    assert await refusal(lending, signing_in(ENV)) == ("no_credential", False)
    assert shelf.back == []


async def test_a_static_secret_is_refused_where_a_dynamic_one_is_required() -> None:
    shelf, endpoint = Shelf(), Endpoint()
    lending = Lending({"file": shelf, "oauth": endpoint})
    static, dynamic = (signing_in(role, require_dynamic=True, gate=FILE) for role in (FILE, TOKEN))

    assert list(lending.faults(static)) == [
        ("it requires a dynamic credential, and its role is static", "name another role")
    ]
    assert await refusal(lending, static) == ("static_credential", False)
    assert list(lending.faults(dynamic)) == []
    lease = await lending.lend(dynamic, CALL, OPENED)
    assert lease is not None
    assert lease.secret.get_secret_value() == "token"
    assert await refusal(lending, signing_in(FILE).under("metadata", require_dynamic=True)) == (
        "static_credential",
        False,
    )


def test_terms_get_stricter_and_never_laxer() -> None:
    tool, strict = signing_in(FILE), signing_in(FILE, require_dynamic=True)
    wished = [(capture, dynamic) for capture in get_args(Capture) for dynamic in (True, False)]

    for _ in range(2):
        for capture, dynamic in wished:
            terms = tool.under(capture, require_dynamic=dynamic).terms
            assert (terms.capture, terms.require_dynamic) == (capture, dynamic)
            assert strict.under(capture, require_dynamic=dynamic).terms.require_dynamic
    assert tool.under("digests", require_dynamic=True) is tool.under("digests", require_dynamic=True)
    assert tool.under(tool.terms.capture) is tool


async def test_a_token_is_asked_for_with_its_clients_secret_and_both_come_back() -> None:
    env, endpoint = Shelf("gate:s3cret"), Endpoint()
    lending = Lending({"env": env, "oauth": endpoint})
    lease = await lending.lend(signing_in(TOKEN, gate=ENV), CALL, OPENED)

    assert lease is not None
    assert endpoint.clients == ["gate:s3cret"]
    assert (env.back, endpoint.back) == ([], [])
    said = await lending.take_back(lease)
    assert [(lent.role, lent.source, lent.end) for lent in said] == [
        ("agent", "oauth", "lapses"),
        ("gate", "env", "given_back"),
    ]
    assert (env.back, endpoint.back) == (["gate"], ["agent"])
    assert "s3cret" not in repr(lease)


async def test_a_clients_secret_comes_back_when_the_token_endpoint_fails() -> None:
    env, endpoint = Shelf("gate:s3cret"), Endpoint(broken=True)
    lending = Lending({"env": env, "oauth": endpoint})

    assert await refusal(lending, signing_in(TOKEN, gate=ENV)) == ("token_refused", True)
    assert (env.back, endpoint.back) == (["gate"], [])


async def test_a_client_whose_source_was_not_chosen_is_told_and_the_endpoint_is_not_asked() -> None:
    endpoint = Endpoint()
    lending = Lending({"oauth": endpoint})
    asking = signing_in(TOKEN, gate=ENV)

    assert [remedy for _, remedy in lending.faults(asking)] == ['add "env" to credentials in toolgate.toml']
    assert await refusal(lending, asking) == ("no_credential", False)
    assert endpoint.clients == []


# --- what an adapter is told

UNTIL = the_time() + timedelta(seconds=60)


@pytest.mark.parametrize("shared", [False, True])
async def test_an_adapter_is_told_when_a_credential_ends_and_whether_others_come_with_it(
    shared: bool,
) -> None:
    world = World([done])
    lent = Lent(id="l", role="agent", source="vault", kind="dynamic", ttl=60)
    lease = Lease(secret=SecretStr("s"), lent=lent, until=UNTIL, shared=shared)
    await AdapterTools(now=the_time).run(admitted(world, "read"), replace(an_act(), lease=lease))

    expected = Credential(secret=SecretStr("s"), sign_in="header", header="X-Key", until=UNTIL, shared=shared)
    assert world.signed_in == [expected]


async def test_a_static_secret_has_no_end_whatever_it_was_read_with() -> None:
    world = World([done])
    lent = Lent(id="l", role="agent", source="vault", kind="static", version=3)
    lease = Lease(secret=SecretStr("s"), lent=lent, until=UNTIL)
    await AdapterTools(now=the_time).run(admitted(world, "read"), replace(an_act(), lease=lease))

    assert world.signed_in == [Credential(secret=SecretStr("s"), sign_in="header", header="X-Key")]
