"""Limits are settings with defaults; `check` shows them, and says when this machine cannot keep them."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shell import document, done, run
from toolgate.cli.open_files import make_room
from toolgate.core.errors import Misconfigured
from toolgate.core.limits import Limits
from toolgate.settings import read_settings


def _limit(root: Path, *lines: str) -> None:
    with (root / "toolgate.toml").open("a", encoding="utf-8") as settings:
        settings.write("\n[limits]\n" + "\n".join(lines) + "\n")


def test_check_shows_the_limits_that_hold(root: Path) -> None:
    _limit(root, "head_seconds = 3")

    assert "max_body 1048576, max_connections 1000, " in done("check", "--root", f"{root}")
    assert document("check", "--root", f"{root}")["limits"]["head_seconds"] == 3


def test_the_environment_wins_over_the_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _limit(root, "head_seconds = 3")
    monkeypatch.setenv("TOOLGATE_LIMITS__HEAD_SECONDS", "4.5")

    assert read_settings(root).limits == Limits(head_seconds=4.5)


@pytest.mark.parametrize("line", ["head_seconds = 0", "max_heads = 7", 'max_head = "much"'])
def test_a_limit_that_is_none_is_a_fault_with_its_place(root: Path, line: str) -> None:
    _limit(root, line)

    with pytest.raises(Misconfigured) as refused:
        read_settings(root)
    assert [fault.place for fault in refused.value.faults] == [f"limits.{line.partition(' ')[0]}"]


def test_more_connections_than_files_can_be_open_are_refused_before_anything_is_served(root: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = 1_000
    script = f"ulimit -n {few}; exec '{sys.executable}' -m toolgate serve --root '{root}'"
    told = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=False, timeout=60)

    assert hard == resource.RLIM_INFINITY or hard > few
    assert told.returncode != 0
    assert "limits.max_connections" in told.stderr
    assert "they need 1256 file descriptors, and this process may open 1000" in told.stderr


def test_a_process_is_given_as_many_files_as_its_connections_need() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
        assert make_room(Limits(max_connections=600)) == []
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 856
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_fault_in_the_limits_is_told_by_check(root: Path) -> None:
    _limit(root, "max_connections = 0")

    refused = run("check", "--root", f"{root}")
    assert refused.exit_code == 1
    assert "limits.max_connections" in refused.stderr
