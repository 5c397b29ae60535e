"""A gate that is killed between a lease's issue and its end leaves nothing behind for long."""

import asyncio
import sys
import time
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.canaries import secrets_in
from tests.test_vault_leases import entries, living, user
from tests.vault_deployment import Deployment, deployed
from tests.vault_proxy import Proxy, When, proxy
from tests.vault_setup import Governed, running_vault

pytestmark = [pytest.mark.anyio, pytest.mark.canaries]

RUN, CHILD, READ, REVOKE = "auth/token/create/*", "auth/token/create", "database/creds/*", "sys/leases/revoke"
STEPS: list[tuple[str, When]] = [
    ("auth/approle/login", "before"),
    ("auth/approle/login", "after"),
    (RUN, "before"),
    (RUN, "after"),
    (CHILD, "before"),
    (READ, "before"),
    (READ, "after"),
    (REVOKE, "before"),
    (REVOKE, "after"),
]
"""Between two requests the gate writes its ledger: the run before the call's token is asked for, the lease
before the call is acted on, its end after it was given back."""


@pytest.fixture(scope="module")
def governed(tmp_path_factory: pytest.TempPathFactory) -> Generator[Governed]:
    yield from running_vault(tmp_path_factory)


@pytest.fixture(scope="module")
def way(governed: Governed) -> Generator[Proxy]:
    with proxy(governed.server.address, governed.server.ca) as way:
        yield way


async def killed(deployment: Deployment, way: Proxy, path: str, when: When, tool: str = "crm.who") -> None:
    """Call through a gate that is killed on its way."""
    settings = deployment.root / "toolgate.toml"
    there = settings.read_text()
    settings.write_text(there.replace(deployment.governed.server.address, way.address))
    way.at(path, when)
    words = ["-m", "toolgate", "call", tool, "--as", "ann", "--root", str(deployment.root)]
    gate = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=PIPE, stderr=STDOUT)
    way.gate = gate.pid
    async with asyncio.timeout(60):
        said, _ = await gate.communicate()
    assert gate.returncode == -9, said
    assert secrets_in(said) == []
    settings.write_text(there)
    deployment.sign_in_again()


async def empty(governed: Governed, seconds: float) -> None:
    give_up = time.monotonic() + seconds
    while left := governed.users():
        assert time.monotonic() < give_up, left
        await asyncio.sleep(0.1)


@pytest.mark.parametrize(("path", "when"), STEPS)
async def test_what_a_killed_gate_left_is_ended_by_the_next_one(
    governed: Governed, way: Proxy, tmp_path: Path, path: str, when: When
) -> None:
    deployment = deployed(tmp_path / "gate", governed)
    await killed(deployment, way, path, when)

    async with deployment.open() as gate:
        left = living(deployment.root)
        await gate.house.lending.keep()

        await empty(governed, 5)
        assert living(deployment.root) == []
        ended = [entry for entry in entries(deployment.root) if entry.get("because") == "orphan"]
        assert len(ended) == len(left)
        assert {entry["status"] for entry in ended} <= {"revoked"}
        assert user(await gate.call("crm.who"))


@pytest.mark.parametrize(("path", "when"), [(READ, "after"), (REVOKE, "before")])
async def test_without_a_next_gate_no_lease_outlives_its_time(
    governed: Governed, way: Proxy, tmp_path: Path, path: str, when: When
) -> None:
    deployment = deployed(tmp_path / "gate", governed, ttl=3, timeout=1)
    await killed(deployment, way, path, when)
    assert len(governed.users()) == 1

    await empty(governed, 3 + 3)


async def test_a_living_gates_leases_are_left_alone(governed: Governed, tmp_path: Path) -> None:
    deployment = deployed(tmp_path / "gate", governed)
    async with deployment.open() as gate:
        name = user(await gate.call("crm.whoami", run="r-1"))
        deployment.sign_in_again()
        async with deployment.open() as other:
            await other.house.lending.keep()

            assert name in governed.users()
