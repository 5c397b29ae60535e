"""What a witness may answer that is no cosignature, and that the gate takes none of it for one."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.witnesses import Log
from toolgate.backends.cosigning import Cosignature, WitnessKey
from toolgate.backends.witness_client import NotCosigned, Unproven, WitnessClient
from toolgate.core.witness import Stale
from toolgate.core.witness_policy import NamedWitness

pytestmark = pytest.mark.anyio
KEY, OTHER, LOG = WitnessKey.new("w"), WitnessKey.new("w"), Log().grow(3)
ASKED = LOG.asks(0)
AT = 1_796_000_000
GOOD = f"{KEY.cosign(ASKED.note.text, AT)}\n"
STRANGE = f"{OTHER.cosign(ASKED.note.text, AT)}\n"
FALSE = f"{KEY.cosign(LOG.note(2).text, AT)}\n"


@contextmanager
def answering(status: int, body: bytes) -> Generator[str]:
    """A witness that gives one answer to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-length", f"{len(body)}")
            self.send_header("location", "/elsewhere")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/prefix/"
        finally:
            server.shutdown()
            thread.join()


async def asked(status: int, body: str) -> Cosignature | Stale:
    with answering(status, body.encode()) as url:
        client = WitnessClient(NamedWitness("w", KEY.verifier, url))
        try:
            return await client.add_checkpoint(ASKED)
        finally:
            await client.aclose()


async def test_its_own_good_line_counts_and_no_other() -> None:
    for body in (GOOD, STRANGE + GOOD, GOOD + STRANGE):
        cosignature = await asked(200, body)
        assert isinstance(cosignature, Cosignature)
        assert cosignature.at == AT
        assert f"{cosignature.line}\n" == GOOD


@pytest.mark.parametrize(
    "body", [STRANGE, FALSE, "", "\n", "nonsense\n", GOOD[:-3], GOOD.replace("w", "v", 1)]
)
async def test_what_is_no_good_line_of_its_own_is_no_cosignature(body: str) -> None:
    with pytest.raises(NotCosigned, match="its answer"):
        await asked(200, body)


async def test_what_else_it_may_say() -> None:
    assert await asked(409, "17\n") == Stale(17)
    with pytest.raises(Unproven):
        await asked(422, "no\n")
    for status, body in (
        (409, "17"),
        (409, "x\n"),
        (409, "-1\n"),
        (409, "1" * 30 + "\n"),
        (302, ""),
        (500, ""),
    ):
        with pytest.raises(NotCosigned, match=f"it answers HTTP {status}"):
            await asked(status, body)
    with pytest.raises(NotCosigned, match="does not know this ledger's key"):
        await asked(403, "")
    with pytest.raises(NotCosigned, match="it does not answer"):
        await asked(200, GOOD * 1000)
