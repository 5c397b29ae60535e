"""The gate before the suite's tools, as a process of its own, behind the shim."""

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from examples.demo.waiting import answers, free_port
from tests.conformance.shim import Shim
from toolgate.backends.dev_issuer import ISSUER, make_keys, mint
from toolgate.cli.local import named_caller
from toolgate.settings import read_settings

REPO: Final = Path(__file__).resolve().parents[2]
ROOT: Final = Path(__file__).parent / "root"
_ENTRY_POINT: Final = "[toolgate.adapters]\nsuite = tests.conformance.adapter:suite\n"


@asynccontextmanager
async def deployed(folder: Path) -> AsyncGenerator[str]:
    """Serve the suite's tools, with what they need under `folder`; gives the address for the suite."""
    _install(folder / "plugins")
    root, gate, shim = folder / "root", free_port(), free_port()
    shutil.copytree(ROOT, root)
    settings = root / "toolgate.toml"
    settings.write_text(
        settings.read_text("utf-8").replace("8080", str(gate)).replace("8081", str(shim)), "utf-8"
    )
    (root / "keys").mkdir()
    make_keys(root)
    url = f"http://127.0.0.1:{shim}/mcp"
    with _serving(root, folder / "plugins", gate):
        async with Shim(gate, lambda: _token(root, url)).listening(shim):
            yield url


@contextmanager
def _serving(root: Path, plugins: Path, port: int) -> Generator[None]:
    command = [sys.executable, "-m", "toolgate", "serve", "--root", str(root)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(plugins), str(REPO)))}
    log = root / "serve.log"
    with log.open("wb") as output, subprocess.Popen(command, stderr=output, env=environment) as process:
        try:
            if not answers(process, f"http://127.0.0.1:{port}/readyz"):
                raise RuntimeError(f"the gate does not serve:\n{log.read_text('utf-8', 'replace')}")
            yield
        finally:
            process.terminate()
            process.wait(30)


def _token(root: Path, audience: str) -> str:
    caller = named_caller(read_settings(root), "suite", ISSUER)
    return mint(root, caller, audience=audience, seconds=600)


def _install(plugins: Path) -> None:
    """Install a distribution as pip would: an entry point that names the adapter."""
    info = plugins / "suite_adapter-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: suite-adapter\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text(_ENTRY_POINT, "utf-8")
