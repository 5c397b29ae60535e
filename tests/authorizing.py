"""MCP clients that get their tokens themselves from a real authorization server; a script is the person."""

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2
from mcp.client.auth import OAuthClientProvider
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import (
    AuthorizationCodeResult,
    OAuthClientInformationFull,
    OAuthClientMetadata,
    OAuthToken,
)
from pydantic import AnyUrl

from tests.identity_provider import IdentityProvider
from tests.serving import Era, Served

DOCUMENT: Final = "https://ide.example.com/client.json"
"""The id of a client that is known by the document there (`provider.mjs`)."""
_CALLBACK: Final = "http://127.0.0.1/callback"
_METADATA: Final = OAuthClientMetadata(
    redirect_uris=[AnyUrl(_CALLBACK)], client_name="An IDE", token_endpoint_auth_method="none"
)
_PAGES: Final = 8
"""What a person goes through at most, from the link to the way back."""

ISSUER: Final = """
[[issuers]]
issuer = "{issuer}"
jwks_uri = "{issuer}/jwks"
tenant = "home"
roles_claim = "roles"
"""
"""How `toolgate.toml` names the provider."""


@dataclass
class Memory:
    """What a client keeps: its tokens, and who it is there."""

    tokens: OAuthToken | None = None
    client: OAuthClientInformationFull | None = None
    granted: list[OAuthToken] = field(default_factory=list[OAuthToken])
    """Every token that it ever got, the newest last."""

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens
        self.granted.append(tokens)

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


@dataclass
class Person:
    """Signs in and agrees, as in a browser; `asked` has the scopes of every time that was needed."""

    name: str = "mia"
    asked: list[set[str]] = field(default_factory=list[set[str]])
    links: list[str] = field(default_factory=list[str])
    _cookies: httpx2.Cookies = field(default_factory=httpx2.Cookies)

    async def open(self, link: str) -> None:
        """Follow the link that a client shows."""
        self.links.append(link)
        self.asked.append(set(httpx2.URL(link).params.get("scope", "").split()))

    async def come_back(self) -> AuthorizationCodeResult:
        """Go through the pages of the authorization server, and bring the code."""
        async with httpx2.AsyncClient(cookies=self._cookies, trust_env=False) as browser:
            reply = await browser.get(self.links[-1])
            for _ in range(_PAGES):
                if not reply.has_redirect_location:
                    reply = await self._answer(browser, reply)
                    continue
                where = reply.url.join(reply.headers["location"])
                if str(where).startswith(_CALLBACK):
                    self._cookies = browser.cookies
                    return AuthorizationCodeResult.model_validate(dict(where.params))
                reply = await browser.get(where)
        raise AssertionError(f"no way back: {reply.status_code} {reply.text}")

    async def _answer(self, browser: httpx2.AsyncClient, page: httpx2.Response) -> httpx2.Response:
        action = re.search(r'action="([^"]+)"', page.text)
        prompt = re.search(r'name="prompt" value="([^"]+)"', page.text)
        assert action is not None, page.text
        assert prompt is not None, page.text
        said = {"prompt": prompt[1], "login": self.name, "password": "any"}
        return await browser.post(page.url.join(action[1]), data=said)


def pre_registered(idp: IdentityProvider) -> Memory:
    """Give what a client knows that was registered by hand."""
    known = OAuthClientInformationFull(
        client_id="ide",
        redirect_uris=[AnyUrl(_CALLBACK)],
        token_endpoint_auth_method="none",
        issuer=idp.issuer,
    )
    return Memory(client=known)


def sign_in(
    gate: Served, memory: Memory, person: Person, *, document: str | None = None
) -> OAuthClientProvider:
    """Give what gets and renews a client's tokens; it is told nothing but the gate's address."""
    return OAuthClientProvider(
        gate.url,
        _METADATA.model_copy(),
        memory,
        redirect_handler=person.open,
        callback_handler=person.come_back,
        client_metadata_url=document,
    )


@asynccontextmanager
async def connected(gate: Served, auth: httpx2.Auth, era: Era = "auto") -> AsyncGenerator[Client]:
    """Connect a client that signs in with `auth`."""
    async with (
        httpx2.AsyncClient(auth=auth, timeout=30) as http,
        Client(streamable_http_client(gate.url, http_client=http), mode=era) as client,
    ):
        yield client


def settings_of(idp: IdentityProvider, **more: Any) -> str:  # noqa: ANN401 - any setting of an issuer
    """Spell the provider as an issuer in `toolgate.toml`."""
    lines = [f"{name} = {value}" for name, value in more.items()]
    return ISSUER.format(issuer=idp.issuer) + "\n".join(lines) + "\n"
