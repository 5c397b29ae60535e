"""`toolgate secrets`: the entries of the embedded keystore. A secret is read, never shown."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr
from rich.text import Text

from toolgate.backends.keystore import Keystore
from toolgate.cli.output import HERE, AsJson, Root, out, print_json
from toolgate.settings import read_settings

app = typer.Typer(help="Keep the secrets that tools sign in with.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="The entry's name.")]


@app.command("set")
def set_(name: Name, root: Root = HERE, as_json: AsJson = False) -> None:  # noqa: FBT002
    """Add or replace an entry; its secret comes from the terminal or from standard input.

    Where there is no keystore, a new one is made.
    """
    settings = read_settings(root)
    if not (root / settings.keystore).exists():
        Keystore.create(root / settings.keystore, passphrase=settings.passphrase, dev=settings.mode == "dev")
    keystore = _opened(root)
    if sys.stdin.isatty():
        secret = typer.prompt("Secret", hide_input=True)
    else:
        secret = sys.stdin.read().removesuffix("\n")
    if not secret:
        raise typer.BadParameter("the secret is empty", param_hint="standard input")
    keystore.set(name, SecretStr(secret))
    _said(f"{name} is set", {"ok": True, "name": name}, as_json=as_json)


@app.command("list")
def list_(root: Root = HERE, as_json: AsJson = False) -> None:  # noqa: FBT002
    """Give the names of the entries."""
    names = _opened(root).names()
    _said("\n".join(names) or "no entries", {"entries": names}, as_json=as_json)


@app.command("rm")
def remove(name: Name, root: Root = HERE, as_json: AsJson = False) -> None:  # noqa: FBT002
    """Remove an entry."""
    _opened(root).remove(name)
    _said(f"{name} is removed", {"ok": True, "name": name}, as_json=as_json)


def _opened(root: Path) -> Keystore:
    settings = read_settings(root)
    return Keystore(root / settings.keystore, passphrase=settings.passphrase, dev=settings.mode == "dev")


def _said(text: str, document: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        print_json(document)
    else:
        out().print(Text(text))
