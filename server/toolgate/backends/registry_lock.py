"""Holds the admitted operations against what was reviewed of them: what has changed since is not served.

A tool's description is what a model goes by. Whoever can change it after the review (an adapter's author, a
server behind it) can make a harmless tool ask for secrets: so what was reviewed is pinned, and not the name.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from toolgate.backends.manifest_catalog import AdmittedTool, ManifestCatalog
from toolgate.backends.registry_lock_file import FILE, read_pins
from toolgate.backends.registry_pins import Change, Pin, changes, in_words, pin_of
from toolgate.core.canonical import digest
from toolgate.core.errors import Fault
from toolgate.core.record import Json

State = Literal["pinned", "changed", "not pinned", "gone"]
"""Of an operation: admitted as it was reviewed, or in another form, or unseen; or no longer admitted."""
NOT_PINNED: Final = "it is not pinned: nobody has reviewed it"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One operation, admitted or pinned or both."""

    name: str
    state: State
    tool: AdmittedTool | None
    """As it is admitted; None for one that is gone."""
    pin: Pin | None
    """As it was reviewed; None for one that is not pinned."""
    changes: tuple[Change, ...] = ()

    @property
    def problem(self) -> str:
        """Why it is not served, in words for the people who keep the registry; empty when it is."""
        match self.state:
            case "changed":
                return f"it changed since its review: {in_words(self.changes)}"
            case "not pinned":
                return NOT_PINNED
            case "pinned" | "gone":
                return ""


def standings(tools: Sequence[AdmittedTool], pins: Mapping[str, Pin]) -> list[Standing]:
    """Say of every operation, admitted or pinned, how it stands, by name."""
    admitted = {tool.name: tool for tool in tools}
    return [
        _standing(name, admitted.get(name), pins.get(name)) for name in sorted(admitted.keys() | pins.keys())
    ]


def reviewed(
    catalog: ManifestCatalog, folder: Path, *, required: bool
) -> tuple[ManifestCatalog, list[Fault]]:
    """Give the catalogue in which every tool says what about it nobody has reviewed.

    Where there is no lock that is a fault if one is `required`, and else a warning: everything is served.
    """
    pins, faults = read_pins(folder)
    if pins is not None:
        found = standings(catalog.tools, pins)
        tools = [replace(one.tool, unreviewed=one.problem) for one in found if one.tool is not None]
        return ManifestCatalog(tools, _version(catalog, pins), list(_gone(found))), []
    if required and not faults:
        faults = [_NO_LOCK]
    warnings = [] if faults else [_NO_LOCK]
    return ManifestCatalog(catalog.tools, _version(catalog, None), warnings), faults


def not_served(tools: Sequence[AdmittedTool]) -> list[Fault]:
    """Tell, as faults, which tools are not served, and how they differ from what was reviewed."""
    return [
        Fault(FILE, tool.name, f"it is not served: {tool.unreviewed}", _REVIEW.format(tool=tool.name))
        for tool in tools
        if tool.unreviewed
    ]


def _standing(name: str, tool: AdmittedTool | None, pin: Pin | None) -> Standing:
    if tool is None:
        return Standing(name=name, state="gone", tool=None, pin=pin)
    if pin is None:
        return Standing(name=name, state="not pinned", tool=tool, pin=None)
    now = pin_of(tool)
    if now.digest == pin.digest:
        return Standing(name=name, state="pinned", tool=tool, pin=pin)
    return Standing(name=name, state="changed", tool=tool, pin=pin, changes=tuple(changes(pin, now)))


def _version(catalog: ManifestCatalog, pins: Mapping[str, Pin] | None) -> str:
    """Tell this state from any other: the manifests, what adapters say today, and what was reviewed."""
    today: dict[str, Json] = {tool.name: pin_of(tool).digest for tool in catalog.tools}
    pinned: dict[str, Json] | None = None if pins is None else {name: pins[name].digest for name in pins}
    return digest([catalog.digest, today, pinned])


def _gone(found: Sequence[Standing]) -> Iterator[Fault]:
    for one in found:
        if one.state == "gone":
            problem = "it is pinned, and no manifest admits it"
            yield Fault(FILE, one.name, problem, f"run: toolgate registry lock {one.name}")


_NO_LOCK: Final = Fault(
    FILE,
    "file",
    "there is none, so a tool that changes after its review cannot be told from one that does not",
    "review what is admitted, then run: toolgate registry lock",
)
_REVIEW: Final = "review it: toolgate registry diff {tool}; then: toolgate registry lock {tool}"
