"""What tests need of Debian's packages, installed where it is missing."""

import shutil
import subprocess

import pytest


def demand(program: str, *packages: str) -> str:
    """Give the path of `program`; `packages` bring it, and what it needs, where it is missing.

    A test that cannot have it fails and says what to do.
    """
    if shutil.which("dpkg") and any(not _is_installed(package) for package in packages):
        for step in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
            subprocess.run(["apt-get", *step], check=False, capture_output=True)  # noqa: S607
    found = shutil.which(program)
    if found is None:
        pytest.fail(f"this test needs {program}; run as root: apt-get install {' '.join(packages)}")
    return found


def _is_installed(package: str) -> bool:
    asked = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package]
    said = subprocess.run(asked, check=False, capture_output=True, text=True)
    return said.stdout == "installed"
