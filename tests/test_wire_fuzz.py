"""For some seconds, whatever comes over the wire; `python -m tests.fuzz` does it for minutes."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.firing import fire, verdict
from tests.fuzz.shots import shots
from tests.wire import Gate, becomes


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_whatever_is_sent_every_request_is_answered_in_order_and_well(
    wire_gate: Gate, data: st.DataObject
) -> None:
    fire(wire_gate, data.draw(shots(wire_gate)))


def test_after_that_the_ledger_says_what_happened_and_no_more(wire_gate: Gate) -> None:
    becomes(lambda: not verdict(wire_gate))
    assert verdict(wire_gate) == []
