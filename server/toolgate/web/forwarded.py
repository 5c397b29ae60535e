"""Whose request it is that a proxy passes on: asked of `X-Forwarded-For`, and only where a proxy is trusted.

`Forwarded` (RFC 7239) is not read: most proxies pass on what a client wrote there, and add to the other one.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

from toolgate.core.peers import TrustedPeers

_HEADER = b"x-forwarded-for"


class Forwarded:
    """Puts the address of the caller where that of a trusted proxy would stand (`scope["client"]`)."""

    def __init__(self, app: ASGIApp, trusted: TrustedPeers) -> None:
        self._app = app
        self._trusted = trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request as its caller's."""
        if scope["type"] == "http":
            hops = b",".join(value for name, value in scope["headers"] if name == _HEADER)
            if hops:
                self._name_client(scope, hops.decode("latin-1"))
        await self._app(scope, receive, send)

    def _name_client(self, scope: Scope, hops: str) -> None:
        connected: tuple[str, int] | None = scope.get("client")
        peer = connected[0] if connected else None
        client = self._trusted.client_behind(peer, hops)
        if client is not None and client != peer:
            scope["client"] = (client, 0)
