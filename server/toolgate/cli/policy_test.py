"""`toolgate policy test`: judges the policy's cases, and says in words where it does something else."""
# ruff: noqa: PT028 - a command, not a test

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from toolgate.backends.policy.cases import Failure, Tested, run_cases
from toolgate.backends.policy.junit import write_junit
from toolgate.cli.output import HERE, AsJson, Root, err, out, print_json, print_places, printable
from toolgate.cli.policy_on_disk import Policies, policy_on_disk
from toolgate.cli.policy_parts import counted
from toolgate.core.errors import Misconfigured


def test(
    only: Annotated[
        str,
        typer.Option("-k", help="Only cases whose name or file holds this; the rules' cover is left out."),
    ] = "",
    junit: Annotated[
        Path | None, typer.Option("--junit", help="Write JUnit XML too.", metavar="FILE")
    ] = None,
    policies: Policies = None,
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """Judge every case of the policy. Exits 1 when one fails, or a rule has not the cases that it needs."""
    found = policy_on_disk(root, policies)
    if found.text is None or found.faults:
        raise Misconfigured(list(found.faults))
    tested = run_cases(found.text, found.tools, only=only)
    if junit is not None:
        write_junit(tested, junit)
    if as_json:
        print_json(_document(tested))
    else:
        _print(tested)
    if not tested.ok or (only and not tested.cases):
        raise typer.Exit(1)


def _print(tested: Tested) -> None:
    console = err()
    print_places(tested.faults)
    for failure in tested.failures:
        _print_failure(console, failure)
    for gap in tested.uncovered:
        place = f"policies/{gap.rule.file}: line {gap.rule.line}"
        console.print(Text(f"{place}: rule {gap.rule.id} needs {' and '.join(gap.missing)}"))
    if tested.uncovered:
        console.print(
            Text("    → add the cases, or say why not under [uncovered] in a file of cases", style="dim")
        )
    said = f"{tested.passed} of {len(tested.cases)} cases passed"
    if tested.faults:
        said += f"; {counted(len(tested.faults), 'fault')} in files of cases"
    if tested.uncovered:
        said += f"; {counted(len(tested.uncovered), 'rule')} without the cases needed"
    ok = tested.ok and bool(tested.cases)
    (out() if ok else console).print(Text(f"{said}.", style="green" if ok else "red"))


def _print_failure(console: Console, failure: Failure) -> None:
    case = failure.case
    console.print(Text.assemble((f"policies/{case.file}", "bold"), ": ", (printable(case.place), "cyan")))
    console.print(Text(f"    expected: {printable(failure.expected)}"))
    console.print(Text(f"    got:      {printable(failure.got)}"))
    for line in failure.why:
        console.print(Text(f"      {printable(line)}", style="dim"))


def _document(tested: Tested) -> dict[str, Any]:
    return {
        "ok": tested.ok,
        "cases": len(tested.cases),
        "passed": tested.passed,
        "failures": [
            {
                "file": f"policies/{failure.case.file}",
                "line": failure.case.line,
                "case": failure.case.name,
                "expected": failure.expected,
                "got": failure.got,
                "why": list(failure.why),
            }
            for failure in tested.failures
        ],
        "faults": [vars(fault) for fault in tested.faults],
        "uncovered": [
            {
                "rule": gap.rule.id,
                "file": f"policies/{gap.rule.file}",
                "line": gap.rule.line,
                "missing": list(gap.missing),
            }
            for gap in tested.uncovered
        ],
    }
