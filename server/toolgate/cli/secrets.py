"""`toolgate secrets`: the entries of the embedded keystore. A secret is read, never shown."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr
from rich.text import Text

from toolgate.backends.keystore import Keystore, RotatedKey
from toolgate.cli.output import HERE, AsJson, Root, out, print_json
from toolgate.settings import Settings, read_settings

app = typer.Typer(help="Keep the secrets that tools sign in with.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="The entry's name.")]
NameOrNone = Annotated[str | None, typer.Argument(help="The entry's name.", show_default=False)]
Key = Annotated[bool, typer.Option("--key", help="Change the keystore's own key; no entry's secret changes.")]


@app.command("set")
def set_(name: Name, root: Root = HERE, as_json: AsJson = False) -> None:  # noqa: FBT002
    """Add or replace an entry; its secret comes from the terminal or from standard input.

    Where there is no keystore, a new one is made.
    """
    settings = read_settings(root)
    if not (root / settings.keystore).exists():
        Keystore.create(root / settings.keystore, passphrase=settings.passphrase, dev=settings.mode == "dev")
    keystore = _opened(root, settings)
    keystore.set(name, _secret())
    _said(f"{name} is set", {"ok": True, "name": name}, as_json=as_json)


@app.command("list")
def list_(root: Root = HERE, as_json: AsJson = False) -> None:  # noqa: FBT002
    """Give the names of the entries, and when each got its secret."""
    keystore = _opened(root, read_settings(root))
    entries = {name: keystore.set_at(name) for name in keystore.names()}
    if as_json:
        listed = [{"name": name, "set_at": at.isoformat() if at else None} for name, at in entries.items()]
        print_json({"entries": listed})
        return
    lines = [f"{name}  set {at:%Y-%m-%d %H:%M} UTC" if at else name for name, at in entries.items()]
    out().print(Text("\n".join(lines) or "no entries"))


@app.command("rotate")
def rotate(
    name: NameOrNone = None,
    key: Key = False,  # noqa: FBT002
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002
) -> None:
    """Give an entry that is there a new secret, or, with --key, the keystore a new key.

    The secret comes from the terminal or from standard input.
    """
    if (name is None) != key:
        raise typer.BadParameter("say the name of an entry, or --key", param_hint="NAME")
    settings = read_settings(root)
    keystore = _opened(root, settings)
    if name is not None:
        keystore.rotate(name, _secret())
        _said(f"{name} has a new secret", {"ok": True, "name": name}, as_json=as_json)
        return
    if settings.new_passphrase is not None and settings.new_passphrase == settings.passphrase:
        raise typer.BadParameter("it is the old passphrase", param_hint="TOOLGATE_NEW_PASSPHRASE")
    rotated = keystore.rotate_key(settings.new_passphrase)
    document: dict[str, object] = {
        "ok": True, "key": rotated.source, "entries": rotated.entries, "old_key_removed": rotated.old_is_gone
    }  # fmt: skip
    _said(_of_the_key(rotated), document, as_json=as_json)


@app.command("rm")
def remove(name: Name, root: Root = HERE, as_json: AsJson = False) -> None:  # noqa: FBT002
    """Remove an entry."""
    _opened(root, read_settings(root)).remove(name)
    _said(f"{name} is removed", {"ok": True, "name": name}, as_json=as_json)


def _opened(root: Path, settings: Settings) -> Keystore:
    return Keystore(root / settings.keystore, passphrase=settings.passphrase, dev=settings.mode == "dev")


def _secret() -> SecretStr:
    if sys.stdin.isatty():
        secret = str(typer.prompt("Secret", hide_input=True))
    else:
        secret = sys.stdin.read().removesuffix("\n")
    if not secret:
        raise typer.BadParameter("the secret is empty", param_hint="standard input")
    return SecretStr(secret)


def _of_the_key(rotated: RotatedKey) -> str:
    count = "1 entry is" if rotated.entries == 1 else f"{rotated.entries} entries are"
    lines = [f"the keystore has a new key ({rotated.source}); {count} sealed anew"]
    if rotated.source == "passphrase":
        lines.append("from now on TOOLGATE_PASSPHRASE must be the new one: start gates again with it")
    if not rotated.old_is_gone:
        lines.append(
            "the old key could not be removed; it opens old copies of the keystore: remove it by hand"
        )
    return "\n".join(lines)


def _said(text: str, document: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        print_json(document)
    else:
        out().print(Text(text))
