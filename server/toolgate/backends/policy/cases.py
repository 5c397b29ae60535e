"""Judges the cases of a policy, and says in words where it does not do what they expect."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from toolgate.backends.policy.casbin_judge import CasbinPolicy
from toolgate.backends.policy.case_files import Case, Excuse, read_cases
from toolgate.backends.policy.conditions import Facts
from toolgate.backends.policy.coverage import Coverage, Gap
from toolgate.backends.policy.text import NONE, PolicyText, Rule
from toolgate.core.decision import Decision
from toolgate.core.errors import Fault
from toolgate.core.obligations import Obligations
from toolgate.core.tool import Tool


@dataclass(frozen=True)
class Failure:
    """A case of which the policy says something else."""

    case: Case
    expected: str
    got: str
    why: tuple[str, ...]
    """Each rule that could match such a call, and whether it does."""


@dataclass(frozen=True, kw_only=True)
class Tested:
    """What came of a policy's cases."""

    cases: tuple[Case, ...] = ()
    """Those that were judged."""
    failures: tuple[Failure, ...] = ()
    faults: tuple[Fault, ...] = ()
    """Cases and excuses that cannot be used. With one of them, nothing is said about coverage."""
    uncovered: tuple[Gap, ...] = ()
    """Rules that no case decides, or that have none just outside, and give no reason."""

    @property
    def passed(self) -> int:
        """How many cases the policy judges as they expect."""
        return len(self.cases) - len(self.failures)

    @property
    def ok(self) -> bool:
        """Whether every case passes, and every rule has its cases or says why not."""
        return not (self.failures or self.faults or self.uncovered)


def run_cases(text: PolicyText, tools: Sequence[Tool], *, only: str = "") -> Tested:
    """Judge every case in the files of `text`. The clock is each case's own.

    Args:
        text: the policy, with its files of cases.
        tools: those that manifests admit.
        only: judge the cases whose name or file holds this text, and say nothing about coverage.
    """
    found = read_cases(text, tools)
    policy = CasbinPolicy(text)
    chosen = [case for case in found.cases if only in case.name or only in case.file]
    faults = [*found.faults, *_without_a_moment(policy, chosen)]
    judged = [(case, policy.decide(case.question)) for case in chosen]
    failures = [_failure(policy, case, decision) for case, decision in judged]
    gaps: list[Gap] = []
    if not (only or faults):
        pairs = [(case.question, decision) for case, decision in judged]
        gaps = Coverage(policy, tools, pairs).gaps()
        faults += _needless(found.excuses, gaps)
    excused = {excuse.rule for excuse in found.excuses}
    return Tested(
        cases=tuple(chosen),
        failures=tuple(failure for failure in failures if failure is not None),
        faults=tuple(faults),
        uncovered=tuple(gap for gap in gaps if gap.rule.id not in excused),
    )


def _without_a_moment(policy: CasbinPolicy, cases: Iterable[Case]) -> Iterator[Fault]:
    """Tell each case that leaves open when it happens, though a rule that could match looks at the clock."""
    for case in cases:
        if case.says_when:
            continue
        candidates = policy.candidates(case.question.caller, case.question.tool)
        if late := [rule.id for rule in candidates if rule.when is not None and rule.when.uses_now]:
            problem = f"rule {late[0]} looks at the clock, and the case does not say when it happens"
            remedy = "say at, with its offset, here or in [defaults]: at = 2026-11-18T11:00:00+01:00"
            yield Fault(f"policies/{case.file}", f"{case.place}: at", problem, remedy)


def _needless(excuses: Iterable[Excuse], gaps: Iterable[Gap]) -> Iterator[Fault]:
    open_ = {gap.rule.id for gap in gaps}
    for excuse in excuses:
        if excuse.rule not in open_:
            problem = "the rule has the cases that it needs"
            yield Fault(f"policies/{excuse.file}", f"uncovered.{excuse.rule}", problem, "remove the line")


def _failure(policy: CasbinPolicy, case: Case, decision: Decision) -> Failure | None:
    differences = list(_differences(case, decision))
    if not differences:
        return None
    return Failure(
        case=case,
        expected=", ".join(expected for expected, _ in differences),
        got=", ".join(got for _, got in differences),
        why=tuple(_why(policy, case)),
    )


def _differences(case: Case, decision: Decision) -> Iterator[tuple[str, str]]:
    """Give each thing that is other than expected, in words: what was expected, and what is."""
    decided = decision.rules[-1] if decision.rules else NONE
    if case.expect != decision.verdict or case.rule not in {None, decided}:
        expected = case.expect if case.rule is None else f"{case.expect} {_by(case.rule)}"
        yield expected, f"{decision.verdict} {_by(decided)}"
    if case.approvers is not None and case.approvers != frozenset(decision.approvers):
        yield f"approvers {_listed(case.approvers)}", f"approvers {_listed(decision.approvers)}"
    if case.obligations is not None and case.obligations != decision.obligations:
        yield f"with {_spelled(case.obligations)}", f"with {_spelled(decision.obligations)}"
    if case.unknown is not None and case.unknown != frozenset(decision.unknown):
        yield f"unknown {_listed(case.unknown)}", f"unknown {_listed(decision.unknown)}"
    would_be = NONE if decision.would_be is None else decision.would_be.verdict
    if case.would_be not in {None, would_be}:
        yield f"would be {case.would_be}", f"would be {would_be}"


def _why(policy: CasbinPolicy, case: Case) -> Iterator[str]:
    facts = Facts(case.question)
    for rule in policy.candidates(case.question.caller, case.question.tool):
        yield f"{rule.id} ({rule.cells[1]}, {rule.file} line {rule.line}) {_told(rule, facts)}"


def _told(rule: Rule, facts: Facts) -> str:
    if rule.when is None:
        return "matches: it has no condition"
    match rule.when.holds(facts):
        case True:
            return f"matches: {rule.when.text}"
        case False:
            return f"does not match: {rule.when.text}"
        case None:
            matches = "does not match" if rule.effect == "allow" else "matches"
            return f"cannot be told, and so {matches}: {rule.when.text}"


def _by(rule: str) -> str:
    return "because no rule matches" if rule == NONE else f"by {rule}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or NONE


def _spelled(obligations: Obligations) -> str:
    return "; ".join(obligations.spelled()) or NONE
