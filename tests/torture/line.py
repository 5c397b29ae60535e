"""The adapter between a gate and the system, and a tool on it for each way to deal with duplicates."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from tests.torture.points import Points
from toolgate.adapter import CannotTell, Context, Credential, Found, NotFound, NothingDone, Operation, Sending
from toolgate.adapter.context import OutcomeUnknown
from toolgate.backends.manifest_catalog import AdmittedTool
from toolgate.core.arguments import Schema, closed
from toolgate.core.credential_roles import FileRole
from toolgate.core.tool import Duplicates, Terms

TOOL = "shop.order"


class Order(BaseModel):
    number: int


class Receipt(BaseModel):
    number: int
    effect: int


@dataclass
class Line:
    """The way to the system: one connection for each request."""

    address: Path
    points: Points
    marks_sending = True

    @asynccontextmanager
    async def session(self, credential: Credential | None, sending: Sending) -> AsyncGenerator["Line"]:
        yield self

    async def aclose(self) -> None:
        """Nothing is open."""

    async def order(self, order: Order, context: Context["Line"]) -> Receipt:
        """Order something once."""
        try:
            reader, writer = await asyncio.open_unix_connection(self.address)
        except OSError as error:
            raise NothingDone("unreachable", "the shop is closed", retryable=True) from error
        self.points.meet("before sending")
        context.sending()
        self.points.meet("before the send")
        writer.write(_spelled("order", context, order))
        try:
            await writer.drain()
            self.points.meet("after the send")
            reply = await reader.readline()
        except ConnectionError as error:
            raise OutcomeUnknown("the line broke") from error
        finally:
            writer.close()
        if not reply.endswith(b"\n"):
            raise OutcomeUnknown("the line broke")
        self.points.meet("after the system's answer")
        return Receipt(number=order.number, effect=json.loads(reply)["effect"])

    async def look_up(self, order: Order, context: Context["Line"]) -> Found[Receipt] | NotFound | CannotTell:
        """Ask whether the order is there."""
        self.points.meet("before a look-up")
        reader, writer = await asyncio.open_unix_connection(self.address)
        try:
            writer.write(_spelled("find", context, order))
            reply = await reader.readline()
        finally:
            writer.close()
        self.points.meet("after a look-up")
        effect = json.loads(reply)["effect"]
        return NotFound() if effect is None else Found(Receipt(number=order.number, effect=effect))


def tool(line: Line, mode: Duplicates, *, timeout: float, quiet: float) -> AdmittedTool:
    """Admit the one operation on terms."""
    operation = Operation(
        name="order",
        description="Order.",
        input_model=Order,
        output_model=Receipt,
        run=line.order,
        look_up=line.look_up if mode == "query" else None,
    )
    return AdmittedTool(
        name=TOOL,
        wire_name="shop_order",
        system="shop",
        operation="order",
        title="Order",
        description="Order.",
        terms=Terms(
            effect="write",
            timeout=timeout,
            duplicates=mode,
            without_key="require",
            capture="full",
            scopes=frozenset(),
            credential="agent",
            quiet_period=quiet,
        ),
        input=Schema(closed(Order.model_json_schema())),
        output=Schema(Receipt.model_json_schema(mode="serialization")),
        credential=FileRole(secret="s", sign_in="bearer"),
        adapter="line",
        run_by=operation,
        connector=line,
    )


def _spelled(what: str, context: Context[Line], order: Order) -> bytes:
    asked = {"do": what, "key": context.idempotency_key, "number": order.number}
    return json.dumps(asked).encode() + b"\n"
