"""The end of a gate, as its clients see it: what was asked is answered, and nobody waits for news."""

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from toolgate.web.http import ENDPOINT


class Draining:
    """Serves the application; once the gate ends, standing streams end in good order, and calls go on.

    A standing stream is what a `GET` of the handshake era opens, and what `subscriptions/listen` does.

    Args:
        app: the application.
        over: set when the gate has been told to end.
        end_subscriptions: ends what `subscriptions/listen` opened, with the result that says so.
    """

    def __init__(self, app: ASGIApp, over: asyncio.Event, end_subscriptions: Callable[[], None]) -> None:
        self._app = app
        self._over = over
        self._end_subscriptions = end_subscriptions

    def end_streams(self) -> None:
        """End all standing streams. To be called again and again: each call ends those opened since."""
        self._over.set()
        self._end_subscriptions()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] == "http" and scope["method"] == "GET" and scope["path"] == ENDPOINT:
            await self._stand(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _stand(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a stream that ends as if its client had gone, and yet with all that belongs to an answer."""
        unfinished = False

        async def noted(message: Message) -> None:
            nonlocal unfinished
            unfinished = message["type"] == "http.response.start" or message.get("more_body", False)
            await send(message)

        async def heard() -> Message:
            return await self._unless_over(receive)

        await self._app(scope, heard, noted)
        if unfinished and self._over.is_set():
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _unless_over(self, receive: Receive) -> Message:
        message = asyncio.ensure_future(receive())
        over = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait({message, over}, return_when=asyncio.FIRST_COMPLETED)
            return message.result() if message.done() else {"type": "http.disconnect"}
        finally:
            message.cancel()
            over.cancel()
