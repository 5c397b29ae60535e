"""What a run of the suite shows, held against what is known not to be offered."""

from dataclasses import dataclass
from typing import Final, Literal

from tests.conformance.not_offered import NOT_OFFERED, NotOffered, single, whole
from tests.conformance.suites import Check, Results

Verdict = Literal["passes", "not offered", "FAILS", "PASSES UNEXPECTEDLY"]
_OF_EVERY_SCENARIO: Final = "wire-schema-valid"
"""It is there even where a scenario had nothing to look at."""


@dataclass(frozen=True)
class Judged:
    """One scenario of one run."""

    scenario: str
    verdict: Verdict
    passed: int
    faults: tuple[str, ...] = ()

    @property
    def expected(self) -> bool:
        return self.verdict in {"passes", "not offered"}


def judge(
    results: Results, scenarios: list[str], not_offered: tuple[NotOffered, ...] = NOT_OFFERED
) -> list[Judged]:
    """Judge each of `scenarios`; one that was not run fails."""
    known = whole(not_offered)
    return [
        _listed(name, results.get(name, []))
        if name in known
        else _of_checks(name, results.get(name, []), single(not_offered, name))
        for name in scenarios
    ]


def _listed(scenario: str, checks: list[Check]) -> Judged:
    passed = _passed(checks)
    if not checks:
        return Judged(scenario, "FAILS", 0, ("it was not run",))
    passes = passed and not _faults(checks, frozenset())
    return Judged(scenario, "PASSES UNEXPECTEDLY" if passes else "not offered", len(passed))


def _of_checks(scenario: str, checks: list[Check], listed: frozenset[str]) -> Judged:
    passed = _passed(checks)
    faults = _faults(checks, listed) or (() if passed else ("it has shown nothing",))
    if faults:
        return Judged(scenario, "FAILS", len(passed), faults)
    if surprising := listed & {check.id for check in passed}:
        return Judged(scenario, "PASSES UNEXPECTEDLY", len(passed), tuple(sorted(surprising)))
    return Judged(scenario, "passes", len(passed))


def _passed(checks: list[Check]) -> list[Check]:
    return [check for check in checks if check.status == "SUCCESS" and check.id != _OF_EVERY_SCENARIO]


def _faults(checks: list[Check], listed: frozenset[str]) -> tuple[str, ...]:
    """Give what failed; a warning says that a SHOULD is not kept, and is a fault, too."""
    return tuple(
        f"{check.id}: {check.message}"
        for check in checks
        if check.status in {"FAILURE", "WARNING"} and check.id not in listed
    )
