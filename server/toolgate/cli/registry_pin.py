"""`toolgate registry lock`: what is admitted now is what was reviewed."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from toolgate.backends.manifest_catalog import ManifestCatalog
from toolgate.backends.registry_lock import Standing, standings
from toolgate.backends.registry_lock_file import FILE, read_pins, write_pins
from toolgate.backends.registry_pins import in_words, pin_of
from toolgate.cli.output import HERE, AsJson, Root, err, out, print_json, print_places
from toolgate.cli.policy_parts import counted
from toolgate.cli.registry_parts import Tools, admitted, chosen
from toolgate.core.errors import Fault, Misconfigured


@dataclass(frozen=True, kw_only=True)
class _Locked:
    """What a run of the command did."""

    new: list[Standing]
    anew: list[Standing]
    removed: list[Standing]
    kept: int
    """How many are pinned as they were."""
    left: list[str]
    """What is admitted and still not as it is pinned: it is not served."""
    unread: list[Fault]
    """Why the file that was there could not be read; it was replaced as a whole."""
    written: bool


def lock(tools: Tools = None, root: Root = HERE, as_json: AsJson = False) -> None:  # noqa: FBT002
    """Pin the admitted operations as they are now, and forget those that are gone; or only those named."""
    catalog, folder = admitted(root)
    pins, faults = read_pins(folder)
    if faults and tools:
        raise Misconfigured(faults)
    before = pins or {}
    wanted = chosen(tools, catalog, before)
    found = standings(catalog.tools, before)
    now = dict(before)
    for one in found:
        if one.name in wanted and one.tool is not None:
            now[one.name] = pin_of(one.tool)
        elif one.name in wanted:
            del now[one.name]
    written = write_pins(folder, now)
    locked = _locked(found, wanted, faults, written=written)
    if as_json:
        _print_json(locked)
    else:
        _print(locked, catalog)


def _locked(found: Sequence[Standing], wanted: set[str], unread: list[Fault], *, written: bool) -> _Locked:
    named = [one for one in found if one.name in wanted]
    return _Locked(
        new=[one for one in named if one.state == "not pinned"],
        anew=[one for one in named if one.state == "changed"],
        removed=[one for one in named if one.state == "gone"],
        kept=sum(one.state == "pinned" for one in found),
        left=[one.name for one in found if one.problem and one.name not in wanted],
        unread=unread,
        written=written,
    )


def _print(locked: _Locked, catalog: ManifestCatalog) -> None:
    print_places(locked.unread)
    for one in locked.new:
        out().print(Text(f"pinned       {one.name}"))
    for one in locked.anew:
        out().print(Text(f"pinned anew  {one.name}: {in_words(one.changes)}"))
    for one in locked.removed:
        out().print(Text(f"removed      {one.name}"))
    pinned = len(catalog.tools) - len(locked.left)
    end = "" if locked.written else "; nothing was written"
    out().print(Text(f"{counted(pinned, 'operation')} pinned in {FILE}{end}.", style="green"))
    if locked.left:
        said = f"not served, because they are not as they are pinned: {', '.join(locked.left)}"
        err().print(Text(said, style="yellow"))


def _print_json(locked: _Locked) -> None:
    print_json(
        {
            "ok": True,
            "written": locked.written,
            "pinned": [one.name for one in locked.new],
            "pinned_anew": [{"tool": one.name, "changes": in_words(one.changes)} for one in locked.anew],
            "removed": [one.name for one in locked.removed],
            "unchanged": locked.kept,
            "not_served": locked.left,
            "unread": [vars(fault) for fault in locked.unread],
        }
    )
