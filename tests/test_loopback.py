"""Which addresses count as this machine's own, for every rule that makes an exception for them."""

import pytest

from toolgate.core.loopback import is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "[::1]", "localhost"])
def test_what_crosses_no_network_is_told(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["", "0.0.0.0", "::", "10.0.0.1", "[2001:db8::1]", "localhost.example.com", "127.0.0.1.example.com"],  # noqa: S104
)
def test_what_may_cross_one_is_told(host: str) -> None:
    assert not is_loopback(host)
