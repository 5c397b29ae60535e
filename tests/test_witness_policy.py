"""Policies of witnesses: what they mean, what is wrong with them, and that both readers agree."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ledgers import Signer
from toolgate.backends.cosigning import WitnessKey
from toolgate.core.witness_policy import BadPolicy, WitnessPolicy
from toolgate.verifier import Policy, Unreadable

KEYS = [f"{WitnessKey.new(f'witness.example/{number}').verifier}" for number in range(6)]
LOG = f"{Signer(3).key}"
WITNESSES = "".join(f"witness w{number} {key}\n" for number, key in enumerate(KEYS))
EXAMPLE = f"""# The example of the specification, with blanks where they may be.
log {LOG}\thttps://log.example/

 witness X1 {KEYS[0]}
witness\tX2  {KEYS[1]}   https://x2.example
witness X3 {KEYS[2]}
group X-witnesses 2 X1 X2 X3
witness Y1 {KEYS[3]}
witness Y2 {KEYS[4]}
witness Y3 {KEYS[5]}
group Y-witnesses any Y1 Y2 Y3

group X-and-Y all X-witnesses Y-witnesses
quorum X-and-Y
"""


def test_the_example_of_the_specification_means_what_it_says() -> None:
    policy = WitnessPolicy.parse(EXAMPLE)
    assert [str(log) for log in policy.logs] == [LOG]
    assert {each.name: each.url for each in policy.witnesses}["X2"] == "https://x2.example"
    assert policy.is_met({"X1", "X3", "Y2"})
    assert not policy.is_met({"X1", "X2", "X3"})
    assert not policy.is_met({"X1", "Y1", "Y2", "Y3"})
    assert policy.fewest == 3
    assert WitnessPolicy.parse("quorum none\n").is_met(())
    assert WitnessPolicy.parse("quorum none\n").fewest == 0


FAULTS = {
    "": "there is no quorum",
    "log\nquorum none": "a log has a key",
    f"log {KEYS[0]}\nquorum none": "type 0x01",
    f"log {LOG}\nlog {LOG}\nquorum none": "there twice",
    "log a+b+c\nquorum none": "base64",
    f"log {LOG.replace('+', '+0', 1)}\nquorum none": "does not have the id",
    "witness w\nquorum none": "a witness has a name",
    f"witness w {LOG}\nquorum none": "type 0x04",
    f"witness none {KEYS[0]}\nquorum none": "is taken",
    f"witness w {KEYS[0]}\nwitness w {KEYS[1]}\nquorum w": "is taken",
    f"witness w {KEYS[0]}\nwitness v {KEYS[0]}\nquorum w": "there twice",
    f"{WITNESSES}group g any\nquorum none": "a group has a name",
    f"{WITNESSES}group g 0 w0 w1\nquorum g": "'0' of 2",
    f"{WITNESSES}group g 3 w0 w1\nquorum g": "'3' of 2",
    f"{WITNESSES}group g some w0 w1\nquorum g": "'some' of 2",
    f"{WITNESSES}group g 1 w0 w0\nquorum g": "is in group 'g' already",
    f"{WITNESSES}group g 1 w0\ngroup h 1 w0\nquorum h": "is in group 'g' already",
    f"{WITNESSES}group g 1 h\ngroup h 1 w0\nquorum g": "no witness or group 'h' is defined above",
    f"{WITNESSES}group g 1 none\nquorum g": "no witness or group 'none'",
    f"{WITNESSES}group w0 1 w1\nquorum w0": "is taken",
    f"{WITNESSES}quorum w9": "'w9' is no witness",
    f"quorum w0\n{WITNESSES}": "'w0' is no witness",
    f"{WITNESSES}quorum w0\nquorum w1": "a quorum above already",
    f"{WITNESSES}quorum w0 w1": "the quorum is one name",
    "quorum none\nLOG x": "begins no line",
}


@pytest.mark.parametrize("text", FAULTS)
def test_what_cannot_be_meant_is_told_with_its_line(text: str) -> None:
    with pytest.raises(BadPolicy) as bad:
        WitnessPolicy.parse(text)
    assert FAULTS[text] in str(bad.value)
    assert all(fault.remedy for fault in bad.value.faults)
    with pytest.raises(Unreadable):
        Policy.parse(text)


@pytest.mark.parametrize(
    "text", ["quorum none\r\n", "quorum\x0bnone\n", "\x00\nquorum none\n", "#" + "\n" * 1001 + "quorum none"]
)
def test_what_no_text_file_holds_is_refused(text: str) -> None:
    with pytest.raises(BadPolicy):
        WitnessPolicy.parse(text)


@pytest.mark.parametrize(
    "url", ["ftp://w", "w.example", "https://u@w", "https://w?q", "https://w#f", "http://:1"]
)
def test_a_url_that_cannot_be_asked_is_told(url: str) -> None:
    with pytest.raises(BadPolicy, match="URL"):
        WitnessPolicy.parse(f"witness w {KEYS[0]} {url}\nquorum w\n")


@st.composite
def policies(draw: st.DrawFn) -> str:
    """Witnesses in groups of groups, whatever they demand."""
    free = [f"w{number}" for number in range(len(KEYS))]
    lines = [WITNESSES]
    for number in range(draw(st.integers(1, 4))):
        members = draw(st.lists(st.sampled_from(free), min_size=1, unique=True))
        count = draw(st.one_of(st.sampled_from(["all", "any"]), st.integers(1, len(members)).map(str)))
        lines.append(f"group g{number} {count} {' '.join(members)}\n")
        free = [name for name in free if name not in members] + [f"g{number}"]
    return "".join(lines) + f"quorum {draw(st.sampled_from(free))}\n"


@given(policies())
def test_both_readers_mean_the_same_of_any_witnesses(text: str) -> None:
    ours, theirs = WitnessPolicy.parse(text), Policy.parse(text)
    names = [each.name for each in ours.witnesses]
    sets = [set(some) for count in range(len(names) + 1) for some in combinations(names, count)]
    met = [some for some in sets if ours.is_met(some)]
    assert met == [some for some in sets if theirs.is_met(some)]
    assert ours.fewest == min(len(some) for some in met)
