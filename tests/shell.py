"""The `toolgate` command as a test runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from toolgate.cli.app import app
from toolgate.core.errors import CredentialUnavailable, LedgerUnavailable, Misconfigured, NothingRecorded


def run(*words: str, given: str = "") -> Result:
    return CliRunner().invoke(app(words), list(words), input=given)


def done(*words: str, given: str = "") -> str:
    result = run(*words, given=given)
    assert result.exit_code == 0, result.output
    return result.stdout


def document(*words: str) -> Any:  # noqa: ANN401 - any JSON value
    return json.loads(done(*words, "--json"))


def faults(*words: str) -> str:
    """Run a command that cannot do its work, and give why."""
    result = run(*words)
    assert result.exit_code == 1
    assert isinstance(
        result.exception, Misconfigured | CredentialUnavailable | LedgerUnavailable | NothingRecorded
    )
    return str(result.exception)


def really(*words: str, given: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "toolgate", *words],
        check=False,
        capture_output=True,
        text=True,
        input=given,
        env=os.environ | environment,
    )


def replace(file: str, old: str, new: str) -> None:
    text = Path(file).read_text()
    assert old in text
    Path(file).write_text(text.replace(old, new))
