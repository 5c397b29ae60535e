"""Finds adapters by entry point: the stock ones and those of a stranger in the same way."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Final

from toolgate.adapter import Adapter

_GROUP: Final = "toolgate.adapters"


def adapter_named(name: str, own: Adapter[Any]) -> tuple[Adapter[Any] | None, str]:
    """Load the adapter `name`, or give the gate's `own`, whose name no other may have; else say why."""
    if name != own.name:
        return _installed(name, own.name)
    if found := entry_points(group=_GROUP, name=name):
        packages = ", ".join(sorted(point.value for point in found))
        return None, f"adapter {name!r} is the gate's own, and {packages} brings another"
    return own, ""


@cache
def installed_versions() -> Mapping[str, str]:
    """Give each adapter that was installed at the start, with the distribution that brings it."""
    return {
        point.name: f"{point.dist.name} {point.dist.version}" if point.dist else point.value
        for point in entry_points(group=_GROUP)
    }


def _installed(name: str, own: str) -> tuple[Adapter[Any] | None, str]:
    found = entry_points(group=_GROUP, name=name)
    if not found:
        known = ", ".join(sorted({own, *(point.name for point in entry_points(group=_GROUP))}))
        return None, f"no adapter {name!r} is installed (there are: {known})"
    if len(found) > 1:
        packages = ", ".join(sorted(point.value for point in found))
        return None, f"adapter {name!r} is brought by more than one package: {packages}"
    try:
        adapter: Any = next(iter(found)).load()
    except Exception as error:  # noqa: BLE001 - a stranger's module may raise anything at import
        return None, f"adapter {name!r} cannot be imported: {type(error).__name__}: {error}"
    if not _is_adapter(adapter):
        return None, f"the entry point {name!r} is a {type(adapter).__name__}, not an Adapter"
    return adapter, ""


def _is_adapter(loaded: object) -> bool:
    return isinstance(loaded, Adapter)
