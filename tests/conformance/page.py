"""`docs/conformance.md`, as a run of the suite writes it."""

from collections.abc import Iterable, Sequence

from tests.conformance.judging import Judged
from tests.conformance.not_offered import NOT_OFFERED, NotOffered

_HEAD = """\
# Conformance

The [official suite](https://github.com/modelcontextprotocol/conformance) runs against a gate with
authentication on, whose tools are judged and recorded like all others. `make conformance` does it, and so
does CI; a scenario that fails, or that passes although it stands below, fails the run. The suite cannot send
a token: a small forwarder in front of the gate adds one to each request that has none, and changes nothing
else.

| the suite | for | scenarios that pass | not offered | checks that pass |
|---|---|---|---|---|
"""
_MIDDLE = """
`make conformance PAGE=docs/conformance.md` writes this page.

## What is not offered

| scenario | why |
|---|---|
"""


def page(runs: Iterable[tuple[str, str, Sequence[Judged]]]) -> str:
    """Write the page: of each run, the suite's version, the part, and what it showed."""
    lines = [_line(version, part, judged) for version, part, judged in runs]
    return _HEAD + "".join(lines) + _MIDDLE + not_offered_rows(NOT_OFFERED)


def not_offered_rows(entries: Iterable[NotOffered]) -> str:
    """Write the table's rows."""
    return "".join(f"| {_place(entry)} | {entry.reason} |\n" for entry in entries)


def _place(entry: NotOffered) -> str:
    return f"`{entry.scenario}`, of it `{entry.check}`" if entry.check else f"`{entry.scenario}`"


def _line(version: str, part: str, judged: Sequence[Judged]) -> str:
    passing = [one for one in judged if one.verdict == "passes"]
    missing = [one for one in judged if one.verdict == "not offered"]
    checks = sum(one.passed for one in passing)
    what = "the extensions" if part == "extension" else part
    return f"| {version} | {what} | {len(passing)} | {len(missing)} | {checks} |\n"
