"""Behind a proxy: who is believed, and that nobody can pass for somebody else."""

import http.client
import sqlite3
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send
from typer.testing import CliRunner

from tests.forwarding_proxy import forwarding_to
from tests.running_gate import PATIENCE, Gate, running, say, with_slow_desk
from tests.serving import call_body
from toolgate.cli.app import app
from toolgate.core.errors import Misconfigured
from toolgate.core.peers import TrustedPeers, trusted_peer
from toolgate.settings import read_settings
from toolgate.web.forwarded import Forwarded

pytestmark = pytest.mark.anyio
PROXIES = TrustedPeers(["10.0.0.0/8", "192.0.2.1", "2001:db8::/32"])


@pytest.mark.parametrize(
    ("peer", "hops", "client"),
    [
        ("10.0.0.1", "203.0.113.5", "203.0.113.5"),
        ("10.0.0.1", "203.0.113.5, 10.9.9.9", "203.0.113.5"),
        ("10.0.0.1", "198.51.100.7, 203.0.113.5, 10.9.9.9", "203.0.113.5"),
        ("192.0.2.1", "203.0.113.5:4711", "203.0.113.5"),
        ("192.0.2.1", "[2001:DB9::0001]:4711", "2001:db9::1"),
        ("2001:db8::1", "2001:db9::1", "2001:db9::1"),
        ("::ffff:10.0.0.1", "::ffff:203.0.113.5", "203.0.113.5"),
        ("10.0.0.1", "10.2.2.2,10.3.3.3", "10.2.2.2"),
        ("10.0.0.1", "203.0.113.5, unknown", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.5, ", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.5, unknown, 10.9.9.9", "10.9.9.9"),
        ("10.0.0.1", "1" * 100_000, "10.0.0.1"),
        ("203.0.113.9", "198.51.100.7", "203.0.113.9"),
        ("192.0.2.2", "198.51.100.7", "192.0.2.2"),
        (None, "198.51.100.7", None),
    ],
)
def test_the_caller_is_the_nearest_whom_a_trusted_proxy_saw(
    peer: str | None, hops: str, client: str | None
) -> None:
    assert PROXIES.client_behind(peer, hops) == client


def test_over_a_unix_socket_only_who_is_trusted_by_name_is_believed() -> None:
    assert TrustedPeers(["unix"]).client_behind(None, "203.0.113.5") == "203.0.113.5"
    assert TrustedPeers(["unix"]).client_behind("10.0.0.1", "203.0.113.5") == "10.0.0.1"


@given(forged=st.text(), seen=st.ip_addresses().filter(lambda seen: not PROXIES.trust(str(seen))))
def test_whatever_a_client_writes_before_it_the_address_that_the_proxy_saw_counts(
    forged: str, seen: object
) -> None:
    known = PROXIES.client_behind("10.0.0.1", f"{forged}, {seen}")

    assert known is not None
    assert ip_address(known) == (getattr(seen, "ipv4_mapped", None) or seen)


@pytest.mark.parametrize("peer", ["*", "0.0.0.0/0", "::/0", "10.0.0.1/8", "proxy.example.com", ""])
def test_everybody_nobody_and_names_cannot_be_trusted(root: Path, peer: str) -> None:
    with pytest.raises(ValueError, match=r"everybody|neither"):
        trusted_peer(peer)
    refused = CliRunner().invoke(
        app(["serve"]), ["serve", "--root", str(root), "--forwarded-allow-ips", f"10.0.0.1, {peer}"]
    )
    assert refused.exit_code == 2
    say(root, f'forwarded_allow_ips = ["{peer}"]')
    with pytest.raises(Misconfigured, match="forwarded_allow_ips"):
        read_settings(root)


async def test_another_header_is_not_believed_and_none_leaves_the_proxys_own_address() -> None:
    seen: list[object] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope.get("client"))

    async def nothing() -> Message:
        return {"type": "http.disconnect"}

    async def unheard(message: Message) -> None:
        """Take an answer that is never given."""

    forwarded = Forwarded(note, PROXIES)
    for headers in ([(b"forwarded", b"for=203.0.113.5")], [(b"x-real-ip", b"203.0.113.5")], []):
        await forwarded({"type": "http", "client": ("10.0.0.1", 1), "headers": headers}, nothing, unheard)
    two = [(b"x-forwarded-for", b"203.0.113.5"), (b"x-forwarded-for", b"198.51.100.7, 10.0.0.2")]
    await forwarded({"type": "http", "client": ("10.0.0.1", 1), "headers": two}, nothing, unheard)

    assert seen == [("10.0.0.1", 1)] * 3 + [("198.51.100.7", 0)]


def test_the_ledger_tells_of_callers_behind_proxies_and_of_nobody_whom_they_made_up(root: Path) -> None:
    plugins = with_slow_desk(root, root / "plugins")
    port = say(root, 'forwarded_allow_ips = ["127.0.0.2"]')
    words = ("--forwarded-allow-ips", "127.0.0.8, 127.0.0.9")
    with (
        running(root, port, plugins=plugins, words=words) as gate,
        forwarding_to(("127.0.0.1", port), itself="127.0.0.9") as inner,
        forwarding_to(("127.0.0.9", inner), itself="127.0.0.8") as outer,
    ):
        _knock(gate, port, "127.0.0.2")  # the option wins over the setting: not a proxy
        _knock(gate, inner, "127.0.0.3", to="127.0.0.9")
        _knock(gate, outer, "127.0.0.4", to="127.0.0.8")
        _stream_through(gate, inner)

    assert _sources(root) == {"127.0.0.2": 1, "127.0.0.3": 1, "127.0.0.4": 1}


def _knock(gate: Gate, port: int, source: str, to: str = "127.0.0.1") -> None:
    """Come with a bad token from `source`, and say that one is somebody else."""
    with closing(
        http.client.HTTPConnection(to, port, timeout=PATIENCE, source_address=(source, 0))
    ) as connection:
        said = gate.headers("tools/call") | {
            "Authorization": "Bearer nonsense",
            "Host": f"127.0.0.1:{gate.port}",
            "X-Forwarded-For": "203.0.113.77, 127.0.0.9",
            "Forwarded": "for=203.0.113.78",
        }
        connection.request("POST", "/mcp", call_body("notes_search", {}), said)
        assert connection.getresponse().status == 401


def _stream_through(gate: Gate, port: int) -> None:
    """Hear of a call's progress before it ends, and then its answer."""
    with closing(http.client.HTTPConnection("127.0.0.9", port, timeout=PATIENCE)) as connection:
        body = call_body("desk_work", {"name": "streamed"}, progressToken="p")
        said = gate.headers("tools/call", **{"Mcp-Name": "desk_work", "Host": f"127.0.0.1:{gate.port}"})
        connection.request("POST", "/mcp", body, said)
        response = connection.getresponse()
        while b"notifications/progress" not in response.readline():
            assert not response.isclosed()
        (gate.root / "streamed.may-end").touch()
        assert b'"isError":false' in response.read()


def _sources(root: Path) -> dict[str, int]:
    with closing(sqlite3.connect(root / "data" / "toolgate.db")) as database:
        rows = database.execute("SELECT source, count FROM audit_auth_failures_v1").fetchall()
    return {str(source): int(count) for source, count in rows}
