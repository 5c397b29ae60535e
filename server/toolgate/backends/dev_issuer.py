"""The issuer of tokens for trying things out, in dev mode only."""

import json
import os
import time
from pathlib import Path
from typing import Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from toolgate.core.call import Caller

ISSUER: Final = "urn:toolgate:dev"
PRIVATE_KEY: Final = "keys/dev-issuer.pem"
PUBLIC_KEYS: Final = "keys/dev-issuer.jwks.json"


def make_keys(root: Path) -> None:
    """Write a key pair under `root`: the private key with mode 0600, the public one as a JWKS."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    descriptor = os.open(root / PRIVATE_KEY, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
    public = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    keys = {"keys": [public | {"kid": "dev", "use": "sig", "alg": "EdDSA"}]}
    (root / PUBLIC_KEYS).write_text(json.dumps(keys, indent=2) + "\n", "utf-8")


def mint(root: Path, caller: Caller, *, audience: str, seconds: int) -> str:
    """Sign an access token (RFC 9068) for `caller`, good for `seconds` at `audience`.

    Raises:
        OSError: there is no usable key under `root`.
    """
    try:
        key = serialization.load_pem_private_key((root / PRIVATE_KEY).read_bytes(), password=None)
    except ValueError as error:
        raise OSError(f"{PRIVATE_KEY} is not a private key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise OSError(f"{PRIVATE_KEY} is not an Ed25519 key")
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "sub": caller.subject,
        "aud": audience,
        "iat": now,
        "exp": now + seconds,
        "client_id": caller.client or "toolgate-token",
        "scope": " ".join(sorted(caller.scopes)),
        "tenant": caller.tenant,
        "roles": sorted(caller.roles),
    }
    return jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": "dev", "typ": "at+jwt"})
