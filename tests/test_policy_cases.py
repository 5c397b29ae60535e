"""What the keeper of a policy learns from its cases: what the policy does not do, and what no case proves."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET  # our own report is read

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolgate.backends.manifest_catalog import Registry
from toolgate.backends.policy.casbin_judge import MODEL
from toolgate.backends.policy.cases import Tested as Judged
from toolgate.backends.policy.cases import run_cases
from toolgate.backends.policy.junit import junit, write_junit
from toolgate.backends.policy.reading import parse_policy
from toolgate.core.tool import Tool

REPO = Path(__file__).parents[1]
RULES = """\
p, S1, allow, support, acme, crm.grant_credit, write, args.amount <= 50, -, -
p, H1, deny, *, acme, crm.grant_credit, write, args.amount > 40, approval:finance, -
p, O1, oblige, auditor, acme, crm.*, read, -, -, mask=email
p, S2, allow, auditor, acme, crm.*, read, -, -, rows=5
g, user:fay, finance, acme
g, lead, support, acme
"""
HEAD = """\
[defaults]
tenant = "acme"
tool = "crm.grant_credit"
as = "ann"
[people]
ann = { roles = ["support"] }
ada = { roles = ["auditor"] }
[args."crm.grant_credit"]
customer_id = 1
reason = "late"
"""
COVERED = """\
[[case]]
name = "forty"
args = { amount = 40 }
expect = "allow"
rule = "S1"
[[case]]
name = "forty-one"
args = { amount = 41 }
expect = "hold"
rule = "H1"
approvers = ["finance"]
[[case]]
name = "fifty-one"
args = { amount = 51 }
expect = "deny"
[[case]]
name = "reads"
as = "ada"
tool = "crm.read_customer"
args = { id = 1 }
expect = "allow"
rule = "S2"
with = "mask=email; rows=5"
[[case]]
name = "reads not"
tool = "crm.read_customer"
args = { id = 1 }
expect = "deny"
rule = "-"
with = "-"
"""

STRANGE = (
    "1979-05-27", "07:32:00", "[]", "{}", "[[case]]", "[case.args]", "[people]", "\n", '"', "'", "true",
    "9" * 30, "[" * 200 + "]" * 200, "as = 'ada'", "at = 9999-12-31T23:59:59Z", "run = ['crm.read']", "\x00",
)  # fmt: skip


@pytest.fixture(scope="module")
def tools() -> Sequence[Tool]:
    """The tools of the repository's own manifests."""
    catalog, faults = Registry(REPO / "registry", REPO).read()
    assert catalog is not None, faults
    return catalog.tools


def judged(
    tools: Sequence[Tool], *cases: str, rules: str = RULES, only: str = "", head: str = HEAD
) -> Judged:
    files = {"model.conf": MODEL, "rules.csv": rules} | {
        f"cases/{number}.toml": head + body for number, body in enumerate(cases)
    }
    text, faults = parse_policy(files)
    assert text is not None, faults
    return run_cases(text, tools, only=only)


def case(expect: str = "allow", *, name: str = "one", amount: int = 40, more: str = "") -> str:
    return f'[[case]]\nname = "{name}"\nargs = {{ amount = {amount} }}\nexpect = "{expect}"\n{more}\n'


def problems(tested: Judged) -> list[tuple[str, str]]:
    return [(fault.place, fault.problem) for fault in tested.faults]


def test_a_policy_passes_when_every_case_does_and_every_rule_has_its_cases(tools: Sequence[Tool]) -> None:
    tested = judged(tools, COVERED)

    assert (tested.failures, tested.faults, tested.uncovered) == ((), (), ())
    assert (tested.passed, tested.ok) == (5, True)


@pytest.mark.parametrize(
    ("more", "expected", "got"),
    [
        ('expect = "deny"', "deny", "allow by S1"),
        ('expect = "deny"\nrule = "H1"', "deny by H1", "allow by S1"),
        ('expect = "allow"\nrule = "-"', "allow because no rule matches", "allow by S1"),
        ('expect = "allow"\nrule = "S2"', "allow by S2", "allow by S1"),
        ('expect = "allow"\nwith = "rows=5"', "with rows=5", "with -"),
        ('expect = "allow"\nunknown = ["S1"]', "unknown S1", "unknown -"),
        ('expect = "allow"\nwould_be = "deny"', "would be deny", "would be -"),
        ('expect = "hold"\napprovers = ["finance"]', "hold, approvers finance", "allow by S1, approvers -"),
    ],
)
def test_a_failure_says_in_words_what_was_expected_and_what_is(
    tools: Sequence[Tool], more: str, expected: str, got: str
) -> None:
    tested = judged(tools, f'[[case]]\nname = "forty"\nargs = {{ amount = 40 }}\n{more}\n')

    (failure,) = tested.failures
    assert (failure.expected, failure.got) == (expected, got)
    assert failure.case.place == "line 11, case 'forty'"
    assert failure.why == (
        "S1 (allow, rules.csv line 1) matches: args.amount <= 50",
        "H1 (deny, rules.csv line 2) does not match: args.amount > 40",
    )
    assert not tested.ok


def test_what_is_right_in_every_respect_fails_in_none(tools: Sequence[Tool]) -> None:
    more = 'rule = "S1"\nwith = "-"\nunknown = []\nwould_be = "-"\napprovers = []'

    assert judged(tools, case("allow", more=more)).failures == ()


def test_a_failure_says_what_could_not_be_told(tools: Sequence[Tool]) -> None:
    rules = (
        "p, S1, allow, support, acme, tickets.search, read, -, -, -\n"
        "p, D1, deny, *, acme, tickets.search, read, args.status == 'open', -, -\n"
        "p, S2, allow, support, acme, tickets.search, read, args.status == 'new', -, -\n"
    )
    tested = judged(tools, '[[case]]\nname = "x"\ntool = "tickets.search"\nexpect = "allow"\n', rules=rules)

    (failure,) = tested.failures
    assert failure.got == "deny by D1"
    assert failure.why[0] == "S1 (allow, rules.csv line 1) matches: it has no condition"
    assert "cannot be told, and so matches" in failure.why[1]
    assert "cannot be told, and so does not match" in failure.why[2]


@pytest.mark.parametrize(
    ("body", "place", "problem"),
    [
        (case(more="exspect = 1"), "line 11, case 'one': exspect", "there is no such key"),
        (case("maybe"), "line 11, case 'one': expect", "Input should be 'allow', 'hold' or 'deny'"),
        (case(more='as = "anne"'), "line 11, case 'one': as", "there is no 'anne' in [people]"),
        (
            case(more='tool = "crm.grant"'),
            "line 11, case 'one': tool",
            "no manifest admits a tool 'crm.grant'",
        ),
        (case(more='run = ["crm.raed"]'), "line 11, case 'one': run", "no manifest admits a tool 'crm.raed'"),
        (case(more='rule = "S9"'), "line 11, case 'one': rule", "there is no rule 'S9'"),
        (case(more='unknown = ["S9"]'), "line 11, case 'one': unknown", "there is no rule 'S9'"),
        (
            case(more='with = "label=x"'),
            "line 11, case 'one': with",
            "the obligation 'label' would not be enforced",
        ),
        (case(more="at = 2026-11-18T11:00:00"), "line 11, case 'one': at", "timezone"),
        (case(more="at = 0001-01-01T00:00:00Z"), "line 11, case 'one': at", "greater than or equal to 1970"),
        (case(more="at = 1763460000"), "line 11, case 'one': at", "valid datetime"),
        (case(amount=0), "line 11, case 'one': args", "amount"),
        (
            '[[case]]\nname = "one"\nargs = { amount = 1, reason = 2026-11-18 }\nexpect = "deny"',
            "line 11, case 'one': args",
            "args.reason is a date or a time",
        ),
        ('[[case]]\nname = "one"\nexpect = "deny"', "line 11, case 'one': args", "amount"),
        (case() + case(), "line 16, case 'one': name", "another case of this file has it"),
        ("[[case]]\nexpect = 'deny'", "line 11, case: name", "Field required"),
        ("[[case]\n", "syntax", "line 11"),
        ("[peple]\n", "peple", "there is no such key"),
        ("[people.kim]\ntenat = 'x'", "people.kim.tenat", "there is no such key"),
        ("[uncovered]\nX1 = 'because'", "uncovered.X1", "there is no rule 'X1'"),
        ("[uncovered]\nS1 = ' '", "uncovered.S1", "it gives no reason"),
    ],
)
def test_what_a_file_of_cases_should_not_say_is_refused_with_its_place(
    tools: Sequence[Tool], body: str, place: str, problem: str
) -> None:
    tested = judged(tools, body)

    assert [(place, problem)] == [
        (told, problem if problem in said else said) for told, said in problems(tested)
    ]
    assert tested.faults[0].file == "policies/cases/0.toml"
    assert not tested.ok
    assert tested.uncovered == (), "with a fault nothing is said of what is not covered"


@given(data=st.data())
def test_whatever_stands_in_a_file_of_cases_is_judged_or_told(
    tools: Sequence[Tool], data: st.DataObject
) -> None:
    text = HEAD + COVERED
    for _ in range(data.draw(st.integers(1, 4))):
        begin = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(begin, min(begin + 30, len(text))))
        put = data.draw(st.one_of(st.sampled_from(STRANGE), st.text(max_size=5)))
        text = text[:begin] + put.encode("utf-8", "replace").decode() + text[end:]

    tested = judged(tools, text, head="")

    assert tested.ok is not bool(tested.faults or tested.failures or tested.uncovered)


def test_a_misspelt_name_is_told_the_nearest(tools: Sequence[Tool]) -> None:
    (fault,) = judged(tools, case(more='tool = "crm.grant_kredit"')).faults

    assert fault.remedy == "write crm.grant_credit, if that is meant"


def test_a_person_without_a_tenant_is_refused_and_their_cases_are_left_out(tools: Sequence[Tool]) -> None:
    tested = judged(
        tools, "[people]\nkim = {}\n" + case(more='as = "kim"\ntool = "crm.grant_credit"'), head=""
    )

    assert problems(tested)[0] == ("people.kim", "nobody says in which tenant")
    assert tested.cases == ()


@pytest.mark.parametrize(
    "when", ["now > timestamp('2020-01-01T00:00:00Z')", "\"during('Mon-Sun', '00:00-24:00', 'UTC')\""]
)
def test_a_case_of_a_rule_that_looks_at_the_clock_says_when_it_happens(
    tools: Sequence[Tool], when: str
) -> None:
    rules = f"p, S1, allow, support, acme, crm.grant_credit, write, {when}, -, -\n"

    silent = judged(tools, case(), rules=rules)
    said = judged(tools, case(more="at = 2026-11-18T11:00:00+01:00"), rules=rules)

    assert problems(silent)[0][0] == "line 11, case 'one': at"
    assert "rule S1 looks at the clock" in problems(silent)[0][1]
    assert (said.faults, said.failures) == ((), ())


def test_a_case_happens_when_it_says_and_after_the_calls_that_it_says(tools: Sequence[Tool]) -> None:
    rules = (
        "p, S1, allow, support, acme, *, write, now < timestamp('2026-01-01T00:00:00Z'), -, -\n"
        "p, D1, deny, *, acme, crm.grant_credit, write, called('tickets.*'), -, -\n"
    )
    early = "at = 2025-12-31T23:59:59Z\n"
    tested = judged(
        tools,
        case("allow", name="a", more=early + 'run = ["crm.read_customer"]\nunknown = []')
        + case("deny", name="b", more='at = 2026-01-01T00:00:00Z\nrun = []\nrule = "-"')
        + case("deny", name="c", more=early + 'run = ["tickets.read", "crm.read_customer"]\nrule = "D1"')
        + case("deny", name="d", more=early + 'rule = "D1"\nunknown = ["D1"]'),
        rules=rules,
    )

    assert tested.failures == ()
    assert tested.faults == ()


@pytest.mark.parametrize(
    ("left_out", "missing"),
    [
        ("forty", {"S1": "a case that it decides", "H1": "a case that only its condition keeps out"}),
        ("forty-one", {"H1": "a case that it decides"}),
        ("fifty-one", {"S1": "a case that only its condition keeps out"}),
        ("reads", {"O1": "a case that it applies to", "S2": "a case that it decides"}),
        ("reads not", {"O1": "a case just outside it", "S2": "a case just outside it"}),
    ],
)
def test_a_rule_that_no_case_decides_or_comes_near_to_is_told(
    tools: Sequence[Tool], left_out: str, missing: dict[str, str]
) -> None:
    blocks = COVERED.split("[[case]]\n")[1:]
    kept = "".join(f"[[case]]\n{block}" for block in blocks if f'name = "{left_out}"\n' not in block)

    tested = judged(tools, kept)

    assert {gap.rule.id for gap in tested.uncovered} == set(missing)
    for gap in tested.uncovered:
        assert gap.missing[0].startswith(missing[gap.rule.id])
    assert tested.failures == ()
    assert not tested.ok


def test_an_obligation_on_a_refused_call_proves_nothing(tools: Sequence[Tool]) -> None:
    rules = "p, S1, allow, *, acme, crm.*, read, -, -, -\np, O1, oblige, *, *, crm.*, read, -, -, rows=5\n"
    kim = '[people.kim]\ntenant = "globex"\n'
    reads = '[[case]]\nname = "{0}"\nas = "{0}"\ntool = "crm.list_orders"\nargs = {{ customer_id = 1 }}\n'
    here, there = reads.format("ann") + 'expect = "allow"\n', reads.format("kim") + 'expect = "deny"\n'

    both = judged(tools, kim + here + there, case("deny"), rules=rules)
    refused = judged(tools, kim + there, case("deny"), rules=rules)

    assert both.ok
    assert {gap.rule.id: gap.missing[0] for gap in refused.uncovered} == {
        "S1": "a case that it decides",
        "O1": "a case that it applies to",
    }


def test_another_tenant_alone_is_outside(tools: Sequence[Tool]) -> None:
    rules = "p, S1, allow, *, acme, crm.*, *, -, -, -\n"
    kim = '[people.kim]\ntenant = "globex"\n'
    there = case("deny", name="b", more='as = "kim"')

    (gap,) = judged(tools, case(), rules=rules).uncovered

    assert gap.missing == ("a case just outside it: another caller, tenant or tool, and all else fitting",)
    assert judged(tools, kim + case() + there, rules=rules).ok


def test_a_reason_stands_in_for_a_case_and_is_refused_once_it_is_needless(tools: Sequence[Tool]) -> None:
    kept = COVERED.replace(
        'name = "fifty-one"\nargs = { amount = 51 }\nexpect = "deny"',
        'name = "x"\nargs = { amount = 1 }\nexpect = "allow"',
    )

    assert judged(tools, kept).uncovered != ()
    assert judged(tools, kept, "[uncovered]\nS1 = 'nobody grants more'").ok
    assert problems(judged(tools, COVERED, "[uncovered]\nS1 = 'nobody grants more'")) == [
        ("uncovered.S1", "the rule has the cases that it needs")
    ]


def test_a_rule_in_shadow_is_decided_by_what_would_be(tools: Sequence[Tool]) -> None:
    rules = RULES + "p, T1, shadow-deny, *, acme, crm.grant_credit, write, args.amount > 50, -, -\n"

    (gap,) = judged(tools, COVERED, rules=rules).uncovered
    assert (gap.rule.id, gap.missing) == ("T1", ("a case that it decides",))
    assert judged(tools, COVERED, case("hold", amount=41), rules=rules.replace("> 50", "> 40")).ok


def test_a_rule_for_everything_has_no_outside(tools: Sequence[Tool]) -> None:
    rules = "p, S1, allow, support, acme, *, *, -, -, -\np, D1, deny, *, *, *, *, -, -, -\n"

    (gap,) = judged(tools, case("deny", more='rule = "D1"'), rules=rules).uncovered

    assert gap.rule.id == "S1"


def test_a_part_of_the_cases_says_nothing_of_what_is_covered(tools: Sequence[Tool]) -> None:
    tested = judged(tools, COVERED, case("deny", name="wrong"), only="forty")

    assert [case.name for case in tested.cases] == ["forty", "forty-one"]
    assert tested.ok
    assert [case.name for case in judged(tools, COVERED, case(), only="1.toml").cases] == ["one"]


def test_ci_gets_a_suite_for_each_file_and_one_for_what_is_not_covered(
    tools: Sequence[Tool], tmp_path: Path
) -> None:
    tested = judged(tools, case("deny", name="a"), case(name="b"))
    write_junit(tested, tmp_path / "report.xml")

    root = ET.parse(tmp_path / "report.xml").getroot()  # noqa: S314
    assert [(suite.get("name"), suite.get("tests"), suite.get("failures")) for suite in root] == [
        ("cases/0.toml", "1", "1"),
        ("cases/1.toml", "1", "0"),
        ("rules", "4", "4"),
    ]
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("6", "5", "0")
    told = root.find(".//failure")
    assert told is not None
    assert told.get("message") == "expected deny; got allow by S1"
    assert "S1 (allow, rules.csv line 1) matches" in (told.text or "")
    assert [file.name for file in tmp_path.iterdir()] == ["report.xml"]


def test_ci_gets_what_cannot_be_used_as_errors(tools: Sequence[Tool]) -> None:
    root = ET.fromstring(junit(judged(tools, case("maybe"))))  # noqa: S314

    assert [(suite.get("name"), suite.get("errors")) for suite in root] == [("files", "1")]


@given(name=st.text(min_size=1, max_size=20))
def test_whatever_a_case_is_called_the_report_is_xml(tools: Sequence[Tool], name: str) -> None:
    escaped = "".join(f"\\U{ord(char):08x}" for char in name if not 0xD800 <= ord(char) <= 0xDFFF)
    root = ET.fromstring(junit(judged(tools, case("deny", name=escaped or "x"))))  # noqa: S314

    assert root.get("failures") == "5"
    assert root[0][0].get("classname") == "cases/0.toml"
