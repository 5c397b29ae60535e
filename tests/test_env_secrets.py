"""The gate's environment as a source of credentials: what it lends, and what it keeps to itself."""

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from tests.policies_for_tests import tool
from toolgate.backends.env_secrets import EnvSource
from toolgate.backends.lending import Wanted
from toolgate.core.call import Call, Caller
from toolgate.core.claims import Opened
from toolgate.core.credential_roles import EnvRole
from toolgate.core.errors import CredentialUnavailable

pytestmark = [pytest.mark.anyio, pytest.mark.canaries]
CANARY = "canary-5b1d02"
OWN = ("TOOLGATE_PASSPHRASE", "TOOLGATE_NEW_PASSPHRASE", "VAULT_TOKEN", "BAO_TOKEN", "Vault_Addr")


def role(name: str) -> EnvRole:
    return EnvRole.model_validate({"from": "env", "secret": name, "sign_in": "bearer"})


def wanted(name: str) -> Wanted:
    caller = Caller(subject="mia", issuer="test", tenant="home")
    call = Call(
        id="c1", caller=caller, tool="crm.find", arguments={}, received_at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    opened = Opened(call_id="c1", intent=7, remembered={})
    return Wanted(name="agent", role=role(name), tool=tool("crm.find"), call=call, opened=opened)


async def test_a_variable_is_lent_as_it_is_and_shown_nowhere() -> None:
    source = EnvSource({"CRM": f"{CANARY}:ünï ", "MAIL": "other"})

    assert list(source.faults(role("CRM"))) == []
    lease = await source.lend(wanted("CRM"))

    assert lease.secret.get_secret_value() == f"{CANARY}:ünï "
    assert (lease.lent.role, lease.lent.source, lease.lent.static, lease.until) == (
        "agent",
        "env",
        True,
        None,
    )
    assert CANARY not in f"{lease!r} {source!r}"
    assert (await source.take_back(lease)).end == "given_back"


async def test_the_environment_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRM", "early")
    source = EnvSource()
    monkeypatch.setenv("CRM", "late")

    assert (await source.lend(wanted("CRM"))).secret.get_secret_value() == "early"


@pytest.mark.parametrize("environment", [{}, {"CRM": ""}, {"crm": "x"}])
async def test_a_variable_that_is_not_set_is_told_before_and_when_it_is_lent(
    environment: dict[str, str],
) -> None:
    source = EnvSource(environment)

    told = ("the environment has no CRM", "set it where the gate is started")
    assert list(source.faults(role("CRM"))) == [told]
    with pytest.raises(CredentialUnavailable, match="the environment has no CRM") as refused:
        await source.lend(wanted("CRM"))
    assert (refused.value.code, refused.value.retryable) == ("no_credential", False)


@pytest.mark.parametrize("name", OWN)
async def test_what_is_the_gates_own_is_lent_to_nobody(name: str) -> None:
    source = EnvSource({name: CANARY, "MY_VAULT_TOKEN": "x"})

    told = (f"{name} is the gate's own, and is lent to nobody", "name another variable")
    assert list(source.faults(role(name))) == [told]
    with pytest.raises(CredentialUnavailable, match="is the gate's own") as refused:
        await source.lend(wanted(name))
    assert refused.value.code == "no_credential"
    assert CANARY not in repr(vars(source)), "it is not even kept"
    assert (await source.lend(wanted("MY_VAULT_TOKEN"))).secret.get_secret_value() == "x"


@pytest.mark.parametrize("name", ["", "A B", "A=B", "1A", "${A}"])
def test_what_is_no_name_of_a_variable_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        role(name)
