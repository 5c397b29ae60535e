"""How an issuer or a token endpoint is asked: over what, as whom, and whether it may be at all.

Nothing is followed or kept, and the environment has no say.
"""

import ssl
from collections.abc import Iterator
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final
from urllib.parse import quote_plus

import httpx
from pydantic import HttpUrl

from toolgate.core.loopback import is_loopback

CONNECT_SECONDS: Final = 1.0
READ_SECONDS: Final = 3.0
PATIENCE: Final = 5.0
"""Seconds for one question, with the wait for a connection and however slowly the answer trickles in."""
MOST_AT_ONCE: Final = 8
"""Questions to one address at the same time; one that hangs keeps no connection from those elsewhere."""


def closed_client(trust: ssl.SSLContext) -> httpx.AsyncClient:
    """Open connections to one address: no redirects, no cookies, no proxies, no compressed answers."""
    return httpx.AsyncClient(
        verify=trust,
        trust_env=False,
        follow_redirects=False,
        timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
        limits=httpx.Limits(max_connections=MOST_AT_ONCE, keepalive_expiry=2),
        headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
    )


def signed_in(client_id: str, secret: str) -> httpx.BasicAuth:
    """Sign in as a client: both are form-encoded before they are joined (RFC 6749, section 2.3.1)."""
    return httpx.BasicAuth(quote_plus(client_id), quote_plus(secret))


def faults_in_endpoint(url: HttpUrl, *, setting: str, sent: str, sign_in: str) -> Iterator[tuple[str, str]]:
    """Say what would keep `url` from being asked, and what to do.

    Args:
        url: the endpoint.
        setting: what it is called where it is said.
        sent: what is sent there, in one word.
        sign_in: what to do in place of a user in the address.
    """
    if url.scheme == "http" and not is_loopback(url.host or ""):
        yield f"its {setting} is http, and {sent} would be sent for anybody to read", "use https"
    if url.username or url.password:
        yield f"its {setting} holds a user", sign_in
    if url.fragment:
        yield f"its {setting} has a fragment", "remove it"
