"""`toolgate init`: a starter deployment that serves at once."""

import shutil
import sqlite3
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.text import Text

from toolgate.backends.dev_issuer import make_keys
from toolgate.backends.keystore import Keystore
from toolgate.cli.output import HERE, AsJson, Root, out, print_json
from toolgate.core.errors import Fault, Misconfigured
from toolgate.settings import FILE, read_settings

_NOTES: Final = """
CREATE TABLE note (
    id INTEGER PRIMARY KEY,
    text TEXT NOT NULL,
    written TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    call_key TEXT NOT NULL UNIQUE
);
INSERT INTO note (text, call_key) VALUES ('Toolgate was set up', 'init');
"""


def init(
    directory: Annotated[
        Path | None, typer.Argument(help="A new or empty folder.", metavar="DIR", show_default=False)
    ] = None,
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """Write a starter deployment: settings, policies, registry, keys, and a notebook to try it with."""
    folder = directory if directory is not None else root
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        problem = "it is not an empty folder, and nothing in it is overwritten"
        raise Misconfigured([Fault(str(folder), "folder", problem, "name a new folder")])
    with as_file(files("toolgate") / "starter") as starter:
        settings = read_settings(starter)
        try:
            shutil.copytree(starter, folder, dirs_exist_ok=True)
        except OSError as error:
            raise Misconfigured([Fault(str(folder), "folder", str(error), "name another folder")]) from error
    for name in ("keys", "data"):
        (folder / name).mkdir(mode=0o700)
    make_keys(folder)
    Keystore.create(folder / settings.keystore, passphrase=settings.passphrase, dev=settings.mode == "dev")
    with sqlite3.connect(folder / "data" / "notes.db") as notes:
        notes.executescript(_NOTES)
    notes.close()
    if as_json:
        print_json({"ok": True, "root": str(folder), "settings": str(folder / FILE)})
        return
    console = out()
    console.print(Text(f"A deployment is in {folder}. Try it:", style="green"))
    console.print(f"  toolgate call notes.search --root {folder}", markup=False)
    console.print(f"  toolgate serve --root {folder}", markup=False)
