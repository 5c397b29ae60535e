"""Pages of lists, in the order of wire names; a cursor is where the page before ended."""

import base64
import binascii
from collections.abc import Sequence
from typing import Final

import mcp_types as t
from mcp.shared.exceptions import MCPError

from toolgate.core.tool import Tool

LIST_TTL_MS: Final = 30_000
"""How long a client may keep a list."""


def page_of(
    tools: Sequence[Tool], params: t.PaginatedRequestParams | None, size: int
) -> tuple[Sequence[Tool], str | None]:
    """Give the page of `tools` that a client asks for, and the cursor of the next one.

    Raises:
        MCPError: the cursor is not one of ours.
    """
    after = _position(params.cursor) if params and params.cursor else ""
    rest = [tool for tool in tools if tool.wire_name > after] if after else tools
    page = rest[:size]
    return page, _cursor(page[-1].wire_name) if len(rest) > len(page) else None


def _cursor(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()


def _position(cursor: str) -> str:
    try:
        return base64.b64decode(cursor, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise MCPError(t.INVALID_PARAMS, "the cursor is not one that this server gave") from error
