"""Which addresses are this machine's own: what goes there crosses no network."""

from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """Whether a name or an address, in brackets or without, is this machine's own."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
