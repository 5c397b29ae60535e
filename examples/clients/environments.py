"""What each client runs on: Python packages in an environment of its own, or what npm installs beside it."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from examples.node import CannotInstallError, find_node, install

HERE: Final = Path(__file__).parent
INSTALLED: Final = HERE.parents[1] / ".clients"
"""Environments of the Python clients; they are made anew when a lock file changes."""
_INSTALL_SECONDS: Final = 240

Eras = dict[str, str]
MODERN, LEGACY = "2026-07-28", "2025-11-25"
BOTH: Final[Eras] = {"auto": MODERN, "legacy": LEGACY}


@dataclass(frozen=True)
class Example:
    """A client in a folder of its own: `client.py` or `client.ts`, and what it is installed from."""

    name: str
    on: Literal["our packages", "its own packages", "Node"]
    eras: Eras
    """The revision that it speaks, by the word that its script is started with; "" is none."""

    @property
    def folder(self) -> Path:
        return HERE / self.name

    def prepare(self, installed: Path = INSTALLED) -> list[str]:
        """Install what it needs (Python packages into `installed`), unless it is there; give what starts it.

        Raises:
            CannotInstallError: it cannot be had; the message says what to do.
        """
        if (self.folder / "package-lock.json").is_file():
            install(self.folder)
        match self.on:
            case "our packages":
                return [sys.executable, str(self.folder / "client.py")]
            case "its own packages":
                python = environment(self.name, self.folder / "requirements.lock", installed)
                return [str(python), str(self.folder / "client.py")]
            case "Node":
                return [*find_node().node, str(self.folder / "client.ts")]

    def type_faults(self) -> str:
        """Check a script against its own packages, which `make check` does not have; give what is found."""
        if self.on != "its own packages":
            return ""
        environment = INSTALLED / self.name
        config = {
            "include": [os.path.relpath(self.folder, environment)],
            "typeCheckingMode": "strict",
            "venvPath": "..",
            "venv": self.name,
        }
        (environment / "pyrightconfig.json").write_text(json.dumps(config), "utf-8")
        command = [sys.executable, "-m", "pyright", "--project", str(environment)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        return done.stdout + done.stderr if done.returncode else ""


EXAMPLES: Final = {
    example.name: example
    for example in (
        Example("python_sdk", "our packages", BOTH),
        Example("typescript", "Node", BOTH),
        Example("inspector", "our packages", BOTH),
        Example("mcp_remote", "our packages", BOTH),
        Example("fastmcp", "its own packages", BOTH),
        Example("langgraph", "its own packages", {"": LEGACY}),
        Example("pydantic_ai", "its own packages", {"": MODERN}),
        Example("openai_agents", "its own packages", {"": MODERN}),
    )
}


def environment(name: str, lock: Path, installed: Path = INSTALLED) -> Path:
    """Make the environment that a lock file says, unless it is there; give its Python.

    Raises:
        CannotInstallError: it cannot be had; the message says what to do.
    """
    folder = installed / name
    python = folder / "bin" / "python"
    wanted = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()
    installed.mkdir(exist_ok=True)
    with (installed / f"{name}.installing").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        mark = folder / ".of-lock"
        if mark.is_file() and mark.read_text("utf-8") == wanted:
            return python
        shutil.rmtree(folder, ignore_errors=True)
        uv = str(Path(sys.executable).with_name("uv"))
        _run(name, uv, "venv", "--quiet", "--python", sys.executable, str(folder))
        _run(
            name,
            *(uv, "pip", "sync", "--quiet", "--require-hashes"),
            *("--python", str(python), str(lock)),
        )
        mark.write_text(wanted, "utf-8")
    return python


def _run(name: str, *command: str) -> None:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
    except FileNotFoundError as error:
        raise CannotInstallError(
            f"{command[0]} is not there; make the environment with: make test"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise CannotInstallError(f"{' '.join(command)} took more than {_INSTALL_SECONDS} seconds") from error
    if done.returncode:
        raise CannotInstallError(
            f"{' '.join(command)} said:\n{done.stderr}\n"
            f"uv takes the packages of {name}, once, from the index that UV_DEFAULT_INDEX names"
        )
