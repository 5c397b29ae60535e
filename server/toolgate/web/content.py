"""A result that is `Content`, as MCP spells its blocks."""

from typing import Final

from pydantic import TypeAdapter, ValidationError

from toolgate.adapter.content import Block
from toolgate.core.record import Json, JsonObject
from toolgate.core.withheld import WITHHELD

_BLOCK: Final[TypeAdapter[Block]] = TypeAdapter(Block)


def blocks_of(value: JsonObject) -> list[JsonObject]:
    """Give the blocks of a result of `Content`.

    Of a block that cannot be shown without what the policy masks, or what was withheld, only that is told.
    """
    listed = value.get("content")
    return [_block(one) for one in listed] if isinstance(listed, list) else []


def _block(one: Json) -> JsonObject:
    try:
        _BLOCK.validate_python(one)
    except ValidationError:
        return {"type": "text", "text": WITHHELD}
    return _without_nulls(one) if isinstance(one, dict) else {}


def _without_nulls(block: JsonObject) -> JsonObject:
    return {
        name: _without_nulls(part) if isinstance(part, dict) else part
        for name, part in block.items()
        if part is not None
    }
