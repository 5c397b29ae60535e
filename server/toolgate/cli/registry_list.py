"""`toolgate registry list`: every admitted operation, and how it stands to what was reviewed."""

from toolgate.backends.registry_lock import Standing
from toolgate.cli.output import HERE, AsJson, Root, print_json, table
from toolgate.cli.registry_parts import Tools, found_in
from toolgate.core.record import JsonObject

_COLUMNS = ("TOOL", "EFFECT", "ADAPTER", "CREDENTIAL", "STATE")
_NOTHING = "none"


def list_(tools: Tools = None, root: Root = HERE, as_json: AsJson = False) -> None:  # noqa: FBT002
    """Give every operation: its effect, adapter, source of credential, and whether it is pinned."""
    rows = [_row(one) for one in found_in(root, tools)]
    if as_json:
        print_json({"tools": rows})
        return
    cells = [[str(row[name.lower()]) for name in _COLUMNS] for row in rows]
    table("operations", _COLUMNS, cells)


def _row(one: Standing) -> JsonObject:
    role = one.tool.credential if one.tool is not None else None
    return {
        "tool": one.name,
        "effect": one.tool.terms.effect if one.tool is not None else one.pin.effect if one.pin else "",
        "adapter": one.tool.adapter if one.tool is not None else one.pin.adapter if one.pin else "",
        "credential": role.source if role is not None else _NOTHING,
        "state": one.state,
    }
