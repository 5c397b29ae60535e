"""What tests share: a deployment of one's own, and the gate on it."""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.canaries import secrets_in, secrets_under
from tests.postgresql import Cluster, cluster
from tests.serving import serving
from tests.several_gates import PASSPHRASE
from tests.shell import really
from tests.wire import LIMITS, Gate, wired
from toolgate.cli.local import named_caller
from toolgate.core.call import Call, Caller
from toolgate.core.outcome import Answer
from toolgate.core.record import Json
from toolgate.main import House, new_call_id, now, open_house

# Nothing that a test makes belongs into the keyring of whoever runs the tests.
os.environ["PYTHON_KEYRING_BACKEND"] = "keyring.backends.null.Keyring"


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def nothing_secret_is_told(request: pytest.FixtureRequest) -> Generator[None]:
    """After a test marked `canaries` nothing secret stands in a file, in a log or on the terminal."""
    if request.node.get_closest_marker("canaries") is None:
        yield
        return
    folder: Path = request.getfixturevalue("tmp_path")
    caplog: pytest.LogCaptureFixture = request.getfixturevalue("caplog")
    capfd: pytest.CaptureFixture[str] = request.getfixturevalue("capfd")
    caplog.set_level(logging.DEBUG)
    yield
    said = capfd.readouterr()
    records = [repr(record.__dict__) for record in caplog.get_records("call")]
    told = "\n".join([caplog.text, said.out, said.err, *records])
    assert secrets_in(told.encode()) == []
    assert secrets_under(folder) == []


@pytest.fixture(scope="session")
def postgresql() -> Generator[Cluster]:
    """A PostgreSQL of the session's own."""
    with cluster() as running:
        yield running


@pytest.fixture
def postgresql_database(postgresql: Cluster) -> Generator[str]:
    """The name of an empty database of the test's own, which belongs to `toolgate_owner`."""
    name = postgresql.create()
    yield name
    postgresql.drop(name)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment whose keystore opens with a passphrase."""
    folder = tmp_path_factory.mktemp("sealed") / "root"
    assert really("init", str(folder), TOOLGATE_PASSPHRASE=PASSPHRASE).returncode == 0
    return folder


@pytest.fixture(scope="session")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment as `toolgate init` writes it; tests copy it and leave it alone."""
    folder = tmp_path_factory.mktemp("starter") / "root"
    subprocess.run([sys.executable, "-m", "toolgate", "init", str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture
def root(starter: Path, tmp_path: Path) -> Path:
    """A starter deployment of the test's own: notes in SQLite, callers `member` and `reader`."""
    return Path(shutil.copytree(starter, tmp_path / "root"))


@pytest.fixture(scope="session")
def wire_gate(starter: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Gate]:
    """A gate with narrow limits, for tests that send it bytes; it serves all of them, one after another."""
    root = Path(shutil.copytree(starter, tmp_path_factory.mktemp("wire") / "root"))
    with (root / "toolgate.toml").open("a", encoding="utf-8") as settings:
        settings.write(LIMITS)
    with serving(root) as served, wired(served) as gate:
        yield gate


@pytest.fixture
async def house(root: Path) -> AsyncGenerator[House]:
    async with open_house(root) as opened:
        yield opened


@dataclass(frozen=True)
class Client:
    """Makes governed calls as one caller."""

    house: House
    caller: Caller

    async def call(
        self, tool: str, key: str | None = None, *, again: bool = False, **arguments: Json
    ) -> Answer:
        return await self.house.gateway.carry_out(
            Call(
                id=new_call_id(),
                caller=self.caller,
                tool=tool,
                arguments=arguments,
                received_at=now(),
                key=key,
                key_from="none" if key is None else "meta",
                again=again,
            )
        )


@pytest.fixture
def as_caller(house: House) -> Callable[[str], Client]:
    """Give a client that calls as a caller of `toolgate.toml`."""
    return lambda name: Client(house, named_caller(house.settings, name))
