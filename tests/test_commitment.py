"""What an entry promises about a value, and the random bytes behind it."""

import hmac

from hypothesis import given
from hypothesis import strategies as st

from toolgate.backends.random_pool import RandomPool
from toolgate.core.commitment import commitment


@given(
    salt=st.binary(min_size=32, max_size=32),
    label=st.sampled_from(["arguments", "result"]),
    value=st.binary(),
)
def test_a_commitment_is_an_hmac_that_anybody_can_recompute(salt: bytes, label: str, value: bytes) -> None:
    expected = hmac.digest(salt, label.encode() + b"\0" + value, "sha256").hex()
    assert commitment(salt, label, value) == expected


def test_a_random_byte_is_never_handed_out_twice() -> None:
    pool = RandomPool()
    taken = [pool.take(32) for _ in range(1000)]
    assert len(set(taken)) == 1000
    assert all(len(part) == 32 for part in taken)
