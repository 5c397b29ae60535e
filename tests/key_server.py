"""An issuer of tokens for tests: it signs with keys of its own and serves the public ones over HTTP."""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from toolgate.core.identity import TrustedIssuer

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


ISSUER, AUDIENCE = "https://id.example.com", "https://gate.example.com/mcp"
ALGORITHMS = ("ES256", "RS256", "EdDSA")


@cache
def private_key(name: str) -> PrivateKey:
    """Give the key `name`, made once for all tests; each kind of key is also the name of one."""
    match name:
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case "RS256":
            return rsa.generate_private_key(public_exponent=65537, key_size=2048)
        case _:
            return ed25519.Ed25519PrivateKey.generate()


def claims(*without: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - any claim
    """Give the claims of a good token, changed."""
    now = int(time.time())
    said = {"iss": ISSUER, "aud": AUDIENCE, "sub": "mia", "iat": now, "exp": now + 86_400} | more
    return {name: value for name, value in said.items() if name not in without}


def sign(said: object, name: str = "EdDSA", **header: str | None) -> str:
    """Sign anything with the key `name`; a header of None is left out."""
    algorithm = name if name in ALGORITHMS else "EdDSA"
    said_of_it = {key: value for key, value in ({"kid": name} | header).items() if value is not None}
    return jwt.PyJWS().encode(
        json.dumps(said).encode(), private_key(name), algorithm=algorithm, headers=said_of_it
    )


def public_jwk(name: str, **more: str) -> dict[str, Any]:
    """Publish the key `name`."""
    match private_key(name):
        case ec.EllipticCurvePrivateKey() as key:
            public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case rsa.RSAPrivateKey() as key:
            public = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case ed25519.Ed25519PrivateKey() as key:
            public = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return public | {"kid": name, "use": "sig"} | more


def signed_with_the_public_key(said: object, name: str) -> str:
    """Forge a token as key confusion does: HS256, with the published key for a shared secret."""
    public = (
        private_key(name)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    text = f"{encoded({'alg': 'HS256', 'typ': 'JWT', 'kid': name})}.{encoded(said)}"
    return f"{text}.{_base64(hmac.digest(public, text.encode(), hashlib.sha256))}"


def unsigned(said: object, **header: str) -> str:
    return f"{encoded({'alg': 'none', 'typ': 'JWT'} | header)}.{encoded(said)}."


def encoded(part: object) -> str:
    return _base64(json.dumps(part).encode())


def _base64(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


class KeyServer:
    """Serves a key set that tests change, and counts who asks for it."""

    def __init__(self) -> None:
        self.keys: list[object] = [public_jwk(name) for name in ALGORITHMS]
        self.text: str | None = None
        """In place of the keys."""
        self.status = 200
        self.asked = 0
        self.hangs = threading.Event()
        """Clear while it hangs."""
        self.hangs.set()
        self.uri = ""

    def trusted(self, **more: Any) -> TrustedIssuer:  # noqa: ANN401 - any field
        """Say what is believed of this issuer."""
        said = {"issuer": ISSUER, "jwks_uri": self.uri, "tenant": "acme", "roles_claim": "realm.roles"}
        return TrustedIssuer.model_validate(said | more)

    def answer(self) -> bytes:
        self.asked += 1
        self.hangs.wait(30)
        return (self.text if self.text is not None else json.dumps({"keys": self.keys})).encode()


@contextmanager
def key_server() -> Generator[KeyServer]:
    """Serve keys on a free port of this machine."""
    served = KeyServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = served.answer()
            self.send_response(served.status)
            self.send_header("Location", f"{served.uri}/elsewhere")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served.uri = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()
