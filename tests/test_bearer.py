"""What a client without a good token is told, so that it can get one (RFC 6750, RFC 9728)."""

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.responses import Response

from toolgate.core.call import Caller
from toolgate.core.identity import BadToken
from toolgate.web.bearer import CALLER, METADATA_PATH, Bearer, ProtectedResource, bind_session

pytestmark = pytest.mark.anyio

RESOURCE = ProtectedResource(
    uri="https://gate.example.com/mcp",
    issuers=["https://id.example.com"],
    scopes=lambda: ["crm:read", "crm:write"],
)
METADATA = f"https://gate.example.com{METADATA_PATH}/mcp"
MIA = Caller(
    subject="mia", issuer="https://id.example.com", tenant="acme", client="ide", scopes=frozenset({"b", "a"})
)


async def issuer(token: str) -> Caller:
    """Know one token."""
    if token != "good":
        raise BadToken("it has expired")
    return MIA


async def ask(
    *authorization: bytes, resource: ProtectedResource = RESOURCE
) -> tuple[Response | None, dict[str, Any]]:
    scope: dict[str, Any] = {
        "headers": [(b"host", b"gate"), *((b"authorization", value) for value in authorization)]
    }
    return await Bearer(resource, issuer, lambda _source, _reason: None).admit(scope), scope


def challenge_of(response: Response | None) -> dict[str, str]:
    """Read the challenge as RFC 9110 spells it."""
    assert response is not None
    assert response.status_code == 401
    scheme, _, rest = response.headers["www-authenticate"].partition(" ")
    assert scheme == "Bearer"
    assert re.fullmatch(r'(\w+="[^"\\]*"(, |$))+', rest)
    return dict(re.findall(r'(\w+)="([^"]*)"', rest))


@pytest.mark.parametrize("header", [b"Bearer good", b"bearer good", b"BEARER  good ", b" Bearer good"])
async def test_a_good_token_brings_its_caller_in(header: bytes) -> None:
    response, scope = await ask(header)

    assert response is None
    assert scope[CALLER] == MIA


@pytest.mark.parametrize(
    "authorization",
    [
        (),
        (b"",),
        (b"Bearer",),
        (b"Bearer ",),
        (b"good",),
        (b"Basic Z29vZA==",),
        (b"Token good",),
        (b"Bearergood",),
        (b"Bearer good", b"Bearer good"),
        (b"Bearer good", b"Basic x"),
    ],
)
async def test_without_one_bearer_token_a_client_is_told_where_to_get_one_and_of_no_error(
    authorization: Sequence[bytes],
) -> None:
    response, scope = await ask(*authorization)

    assert challenge_of(response) == {"resource_metadata": METADATA, "scope": "crm:read crm:write"}
    assert response is not None
    assert json.loads(bytes(response.body)) == {
        "error": "unauthorized",
        "error_description": "a bearer token is needed",
    }
    assert CALLER not in scope


@pytest.mark.parametrize(
    "header", [b"Bearer stale", b"Bearer good good", b"Bearer \xff\xfe", b'Bearer "good"']
)
async def test_a_bad_token_is_answered_with_what_is_wrong_and_not_repeated(header: bytes) -> None:
    response, scope = await ask(header)

    assert challenge_of(response) == {
        "resource_metadata": METADATA,
        "scope": "crm:read crm:write",
        "error": "invalid_token",
        "error_description": "it has expired",
    }
    assert response is not None
    assert json.loads(bytes(response.body)) == {
        "error": "invalid_token",
        "error_description": "the bearer token: it has expired",
    }
    assert CALLER not in scope


async def test_a_server_that_asks_for_no_scope_names_none() -> None:
    resource = ProtectedResource(uri="https://gate.example.com", issuers=[], scopes=list)
    response, _ = await ask(resource=resource)

    assert challenge_of(response) == {"resource_metadata": f"https://gate.example.com{METADATA_PATH}"}
    assert json.loads(bytes(resource.metadata().body)) == {
        "resource": "https://gate.example.com",
        "bearer_methods_supported": ["header"],
        "resource_name": "Toolgate",
    }


def test_the_metadata_document_says_who_issues_tokens_for_which_resource() -> None:
    response = RESOURCE.metadata()

    assert response.headers["content-type"] == "application/json"
    assert RESOURCE.metadata_url == METADATA
    assert json.loads(bytes(response.body)) == {
        "resource": "https://gate.example.com/mcp",
        "authorization_servers": ["https://id.example.com"],
        "scopes_supported": ["crm:read", "crm:write"],
        "bearer_methods_supported": ["header"],
        "resource_name": "Toolgate",
    }


async def test_a_session_is_bound_to_its_caller_and_holds_no_token() -> None:
    _, scope = await ask(b"Bearer good")
    bind_session(scope)

    bound = scope["user"].access_token
    assert (bound.subject, bound.client_id, bound.scopes) == ("mia", "ide", ["a", "b"])
    assert bound.claims == {"iss": "https://id.example.com"}
    assert bound.token == ""
