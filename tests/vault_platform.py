"""The platform that a gate runs on, as far as an OpenBao asks it: tokens of workloads, and who they are."""

import json
import ssl
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.vault_server import certificates

ISSUER = "https://workloads.example.com"


def workload_jwt(subject: str, seconds: int, more: Mapping[str, object]) -> str:
    """Sign what a workload says of itself."""
    now = int(time.time())
    said = {"iss": ISSUER, "aud": "vault", "sub": subject, "iat": now, "nbf": now, "exp": now + seconds}
    return jwt.encode(said | dict(more), platform_key(), algorithm="ES256")


def service_account_jwt(name: str, seconds: int) -> str:
    """Sign a service account's token, as a cluster does; OpenBao wants a list of audiences."""
    account = {"namespace": "gates", "serviceaccount": {"name": name, "uid": f"uid-{name}"}}
    more = {"aud": ["vault"], "kubernetes.io": account}
    return workload_jwt(f"system:serviceaccount:gates:{name}", seconds, more)


@cache
def platform_key() -> ec.EllipticCurvePrivateKey:
    """Give the key that the platform signs its workloads' tokens with."""
    return ec.generate_private_key(ec.SECP256R1())


def public_pem() -> str:
    public = platform_key().public_key()
    spelled = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return spelled.decode()


@dataclass
class Reviews:
    """The part of a cluster that says whether a service account's token is good."""

    url: str = ""
    ca: str = ""
    asked: list[str] = field(default_factory=list[str])
    """Who was named by the tokens that were good."""

    def review(self, asked: Mapping[str, Any], bearer: str) -> dict[str, Any]:
        """Answer a TokenReview; the token that asks must be good as well."""
        token, key = asked["spec"]["token"], platform_key().public_key()
        try:
            jwt.decode(bearer, key, algorithms=["ES256"], audience="vault")
            said = jwt.decode(token, key, algorithms=["ES256"], audience="vault")
        except jwt.InvalidTokenError as error:
            status: dict[str, Any] = {"authenticated": False, "error": str(error)}
        else:
            self.asked.append(said["sub"])
            uid = said["kubernetes.io"]["serviceaccount"]["uid"]
            user = {"username": said["sub"], "uid": uid, "groups": ["system:serviceaccounts"]}
            status = {"authenticated": True, "user": user, "audiences": said["aud"]}
        return {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status}


@contextmanager
def cluster(folder: Path) -> Generator[Reviews]:
    """Serve TokenReviews over TLS."""
    folder.mkdir()
    ca = certificates(folder)
    reviews = Reviews(ca=ca.read_text("utf-8"))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
            body = json.dumps(reviews.review(asked, bearer)).encode()
            self.send_response(201 if self.path == "/apis/authentication.k8s.io/v1/tokenreviews" else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            """Keep quiet."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        served.socket = context.wrap_socket(served.socket, server_side=True)
        reviews.url = f"https://127.0.0.1:{served.server_port}"
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield reviews
        finally:
            served.shutdown()
            thread.join()
