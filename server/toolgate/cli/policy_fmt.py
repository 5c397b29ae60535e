"""`toolgate policy fmt`: aligns the columns of the policy's `.csv` files; what they mean stays."""

import difflib
from collections.abc import Mapping
from typing import Annotated

import typer
from rich.text import Text

from toolgate.backends.policy.formatting import formatted
from toolgate.backends.policy.reading import read_policy
from toolgate.backends.replacing import replace_file
from toolgate.cli.output import HERE, AsJson, Root, out, print_json, printable
from toolgate.cli.policy_on_disk import Policies
from toolgate.core.errors import Misconfigured
from toolgate.settings import read_settings


def fmt(
    check: Annotated[  # noqa: FBT002 - a command's flag
        bool,
        typer.Option("--check", help="Write nothing; show what would change, and exit 1 if anything would."),
    ] = False,
    policies: Policies = None,
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """Align the policy's .csv files. Files with a fault are left as they are, and the faults told."""
    folder = policies if policies is not None else root / read_settings(root).policies
    text, faults = read_policy(folder)
    if text is None:
        raise Misconfigured(faults)
    changed = {name: body for name, body in formatted(text).items() if body != text.files[name]}
    if not check:
        for name, body in changed.items():
            replace_file(folder / name, body)
    if as_json:
        print_json({"ok": not (check and changed), "changed": sorted(changed)})
    else:
        _print(text.files, changed, check=check)
    if check and changed:
        raise typer.Exit(1)


def _print(files: Mapping[str, str], changed: Mapping[str, str], *, check: bool) -> None:
    console = out()
    for name, body in sorted(changed.items()):
        if check:
            lines = difflib.unified_diff(
                files[name].splitlines(), body.splitlines(), name, name, "", "aligned", lineterm=""
            )
            console.print(Text("\n".join(map(printable, lines))))
        else:
            console.print(Text(f"aligned {name}"))
    if not changed:
        console.print(Text("Every file is aligned.", style="green"))
