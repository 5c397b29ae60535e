"""Which neighbours on the network are believed when they say for whom they speak."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

UNIX_SOCKET: Final = "unix"
"""The name of everybody who comes over a Unix socket: who may open it is the file system's to say."""
_LONGEST_HOP: Final = 64
_MAPPED: Final = IPv6Network("::ffff:0:0/96")
"""IPv4 addresses as a socket for both families shows them (RFC 4291, section 2.5.5.2)."""


def trusted_peer(text: str) -> str:
    """Check the name of a neighbour that is to be believed: an address, a network, or `unix`.

    Raises:
        ValueError: it is none of these, or is everybody: then any caller could name any address as its own.
    """
    if text == UNIX_SOCKET:
        return text
    try:
        network = ip_network(text)
    except ValueError as error:
        raise ValueError(
            f"{text!r} is neither an address, nor a network such as 10.0.0.0/8, nor {UNIX_SOCKET!r}; "
            "* would let any caller name any address as its own"
        ) from error
    if network.prefixlen == 0:
        raise ValueError(f"{text!r} is everybody: any caller could name any address as its own")
    return text


class TrustedPeers:
    """Proxies that are believed, and whoever stands behind them."""

    def __init__(self, peers: Iterable[str]) -> None:
        named = frozenset(trusted_peer(peer) for peer in peers)
        self._unix = UNIX_SOCKET in named
        self._networks = tuple(_plain_network(ip_network(peer)) for peer in named - {UNIX_SOCKET})

    def trust(self, peer: str | None) -> bool:
        """Whether `peer` is believed; None is whoever came over a Unix socket."""
        if peer is None:
            return self._unix
        address = _address(peer)
        return address is not None and any(address in network for network in self._networks)

    def client_behind(self, peer: str | None, hops: str) -> str | None:
        """Give the address for which `peer` speaks: the nearest one that a trusted proxy saw and none is.

        Each proxy adds whom it saw at the end, so what stands before the first stranger is that stranger's
        word (RFC 7239, section 5.2, says the same of its own header).

        Args:
            peer: who is connected; None over a Unix socket.
            hops: what the `X-Forwarded-For` headers say, in their order, joined by commas.
        """
        client = peer
        for hop in reversed(hops.split(",")):
            if not self.trust(client):
                break
            address = _address(hop.strip())
            if address is None:
                break
            client = str(address)
        return client


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Read an address, which some proxies write with a port: `192.0.2.1:80`, `[2001:db8::1]:80`."""
    if len(text) > _LONGEST_HOP:
        return None
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return _plain(ip_address(text))
    except ValueError:
        return None


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Give the IPv4 address that is in `::ffff:192.0.2.1`."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _plain_network(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return ip_network(f"{_plain(network.network_address)}/{network.prefixlen - _MAPPED.prefixlen}")
    return network
