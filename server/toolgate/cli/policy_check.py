"""`toolgate policy check`: what `serve` would refuse in the policy, and what is most likely not meant."""

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.text import Text

from toolgate.backends.policy.case_files import read_cases
from toolgate.backends.policy.text import PolicyText
from toolgate.cli.output import HERE, AsJson, Root, err, out, print_json, print_places
from toolgate.cli.policy_on_disk import OnDisk, Policies, policy_on_disk
from toolgate.cli.policy_parts import counted, short
from toolgate.cli.policy_warnings import print_warnings, warnings_of
from toolgate.core.errors import Fault


def check(
    policies: Policies = None,
    strict: Annotated[  # noqa: FBT002 - a command's flag
        bool, typer.Option("--strict", help="Exit 1 for a warning too.")
    ] = False,
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """Say every fault of the policy's files, and what is most likely not meant. Exits 1 for a fault."""
    found = policy_on_disk(root, policies)
    faults, warnings = _examined(found)
    if as_json:
        _print_json(found.text, faults, warnings)
    else:
        _print(found.text, faults, warnings)
    if faults or (strict and warnings):
        raise typer.Exit(1)


def _examined(found: OnDisk) -> tuple[list[Fault], list[Fault]]:
    if found.text is None or not found.tools:
        return list(found.faults), []
    cases = read_cases(found.text, found.tools)
    warnings = warnings_of(found.text, found.tools, found.settings, cases)
    return [*found.faults, *cases.faults], warnings


def _print(text: PolicyText | None, faults: Sequence[Fault], warnings: Sequence[Fault]) -> None:
    print_places(faults)
    print_warnings(warnings)
    said = f"{counted(len(faults), 'fault')}, {counted(len(warnings), 'warning')}"
    if faults or text is None:
        err().print(Text(f"{said}.", style="red"))
        return
    out().print(Text(f"{_size(text)}; version {short(text.digest)}; {said}.", style="green"))


def _print_json(text: PolicyText | None, faults: Sequence[Fault], warnings: Sequence[Fault]) -> None:
    print_json(
        {
            "ok": not faults,
            "policy": None if text is None else text.digest,
            "faults": [vars(fault) for fault in faults],
            "warnings": [vars(fault) for fault in warnings],
        }
    )


def _size(text: PolicyText) -> str:
    return f"{counted(len(text.rules), 'rule')} in {counted(len({rule.file for rule in text.rules}), 'file')}"
