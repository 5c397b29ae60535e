"""What changes between two policies: who gains and loses what, and what became weaker.

Meaning is compared, not text: for every distinct set of names that rules know callers by, the rules that
could match are put side by side, and where they differ the judges of both are asked about calls at the bounds
that the conditions state.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from toolgate.backends.policy.access import (
    ANY_TIME,
    LEVELS,
    Access,
    Known,
    Survey,
    asked,
    more_or_less,
)
from toolgate.backends.policy.explaining import aloud
from toolgate.backends.policy.kinds import Kinds
from toolgate.backends.policy.probes import probes
from toolgate.backends.policy.text import NONE, PolicyText, Rule
from toolgate.core.call import Caller
from toolgate.core.decision import Verdict
from toolgate.core.obligations import together
from toolgate.core.record import JsonObject
from toolgate.core.tool import Capture, Tool

Direction = Literal["gain", "loss", "both", "unclear"]
"""What somebody may do: more, less, some of both; or other terms, that no call tried tells apart."""

_CAPTURES: Final = get_args(Capture)


@dataclass(frozen=True, kw_only=True)
class Witness:
    """A call that both policies answer differently; asked of both judges."""

    arguments: JsonObject
    before: Verdict
    after: Verdict

    @property
    def direction(self) -> Literal["gain", "loss"]:
        """Whether more is allowed after, or less."""
        return more_or_less(self.before, self.after) or "loss"


@dataclass(frozen=True, kw_only=True)
class Shift:
    """What changes for one tenant, tool and set of people."""

    people: tuple[str, ...]
    tenant: str
    tool: str
    before: Access
    after: Access
    direction: Direction
    witnesses: tuple[Witness, ...]
    obligations_lost: tuple[str, ...] = ()
    """What is obliged to no more, such as `mask=email`: the caller sees more than before."""
    obligations_new: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Weakening:
    """Something that a reviewer should look at first."""

    what: str
    rule: str = ""
    place: str = ""
    """File and line, in the newer policy where it is still there."""


@dataclass(frozen=True, kw_only=True)
class RuleChange:
    """A rule whose cells changed."""

    id: str
    cell: str
    before: str
    after: str
    place: str


@dataclass(frozen=True, kw_only=True)
class Difference:
    """All that changes from one policy to another."""

    before: str
    after: str
    """Digests."""
    weakenings: tuple[Weakening, ...]
    shifts: tuple[Shift, ...]
    added: tuple[Rule, ...]
    removed: tuple[Rule, ...]
    changed: tuple[RuleChange, ...]

    @property
    def means_the_same(self) -> bool:
        """Whether nobody's calls are answered otherwise, and nothing is weaker."""
        return not self.weakenings and not self.shifts


def compare(old: PolicyText, new: PolicyText, people: Sequence[Known], tools: Sequence[Tool]) -> Difference:
    """Compare two policies for these people and tools."""
    added, removed, changed = _rules_changed(old, new)
    shifts = _merged(_shifts(Survey(old), Survey(new), people, tools))
    return Difference(
        before=old.digest,
        after=new.digest,
        weakenings=(*_weakened_rules(old, new), *_weakened_shifts(shifts)),
        shifts=tuple(shifts),
        added=added,
        removed=removed,
        changed=changed,
    )


def _rules_changed(
    old: PolicyText, new: PolicyText
) -> tuple[tuple[Rule, ...], tuple[Rule, ...], tuple[RuleChange, ...]]:
    before, after = ({rule.id: rule for rule in text.rules} for text in (old, new))
    changed = [
        RuleChange(id=id_, cell=cell, before=said, after=says, place=place_of(after[id_]))
        for id_ in before.keys() & after.keys()
        for cell, said, says in zip(_CELLS, before[id_].cells[1:], after[id_].cells[1:], strict=True)
        if said != says
    ]
    return (
        tuple(rule for rule in new.rules if rule.id not in before),
        tuple(rule for rule in old.rules if rule.id not in after),
        tuple(sorted(changed, key=lambda change: (change.id, _CELLS.index(change.cell)))),
    )


def _weakened_rules(old: PolicyText, new: PolicyText) -> Iterator[Weakening]:
    after = {rule.id: rule for rule in new.rules}
    same = {(rule.shadow, *rule.cells[1:]) for rule in new.rules}
    for rule in old.rules:
        if (rule.shadow, *rule.cells[1:]) in same or rule.shadow:
            continue
        now = after.get(rule.id)
        if now is None:
            if rule.effect == "deny":
                what = "a hold is removed" if rule.approver else "a deny is removed"
                yield Weakening(what=f"{what}: {aloud(rule)}", rule=rule.id)
            continue
        for what in _weaker(rule, now):
            yield Weakening(what=what, rule=rule.id, place=place_of(now))


def _weaker(rule: Rule, now: Rule) -> Iterator[str]:
    if now.shadow:
        yield f"an enforced {rule.effect} is turned to shadow: it is judged, and not enforced any more"
    elif rule.effect == "deny" and now.effect != "deny":
        yield f"a deny is turned into {now.effect}"
    elif rule.effect == "deny" and rule.approver is None and now.approver is not None:
        yield f"a deny is turned into a hold: {now.approver} can approve it"
    elif rule.effect == "deny" and now.approver not in {None, rule.approver}:
        yield f"a hold has another approver, perhaps a weaker one: {now.approver} in place of {rule.approver}"


def _weakened_shifts(shifts: Sequence[Shift]) -> Iterator[Weakening]:
    for shift in shifts:
        whom = f"{', '.join(shift.people[:3])}{' and others' if shift.people[3:] else ''} in {shift.tenant}"
        if shift.obligations_lost:
            lost = ", ".join(shift.obligations_lost)
            yield Weakening(what=f"{whom}, {shift.tool}: no longer obliged to {lost}")
        approved = shift.before.terms.held_if - shift.after.terms.held_if
        if approved and shift.direction in {"gain", "both"}:
            roles = ", ".join(sorted({role for _, role in approved}))
            yield Weakening(
                what=f"{whom}, {shift.tool}: an approval by {roles} is no longer needed as before"
            )


def _shifts(before: Survey, after: Survey, people: Sequence[Known], tools: Sequence[Tool]) -> Iterator[Shift]:
    old, new = Kinds(before.policy), Kinds(after.policy)
    moved = _moved(before.text, after.text)
    for tenant, of_tenant in _by_tenant(people).items():
        for tool in tools:
            same = _meant(old.rules(tenant, tool)) == _meant(new.rules(tenant, tool))
            if same and tenant not in moved:
                continue
            alike: dict[tuple[object, ...], list[Known]] = {}
            for person in of_tenant:
                kinds = (side.of(person.caller, tool).alike for side in (old, new))
                alike.setdefault(tuple(kinds), []).append(person)
            for group in alike.values():
                shift = _shift(before, after, group, tool)
                if shift is not None:
                    yield shift


def _shift(before: Survey, after: Survey, group: Sequence[Known], tool: Tool) -> Shift | None:
    caller = group[0].caller
    old, new = before.candidates(caller, tool), after.candidates(caller, tool)
    if _signature(old) == _signature(new):
        return None
    was, becomes = before.access(caller, tool), after.access(caller, tool)
    if (was.level, was.terms) == (becomes.level, becomes.terms):
        return None
    witnesses = list(_witnesses(before, after, caller, tool, probes([*old, *new])))
    lost, gained = _obligations(old, new) if becomes.level != "never" else ((), ())
    direction = _direction(was, becomes, witnesses)
    if direction == "unclear" and (lost or gained) and _without(was) == _without(becomes):
        direction = "gain" if lost and not gained else "loss" if gained and not lost else "both"
    return Shift(
        people=tuple(person.name for person in group),
        tenant=caller.tenant,
        tool=tool.name,
        before=was,
        after=becomes,
        direction=direction,
        witnesses=_one_each_way(witnesses),
        obligations_lost=lost if was.level != "never" else (),
        obligations_new=gained if was.level != "never" else (),
    )


def _by_tenant(people: Iterable[Known]) -> dict[str, list[Known]]:
    found: dict[str, list[Known]] = {}
    for person in people:
        found.setdefault(person.caller.tenant, []).append(person)
    return found


def _moved(old: PolicyText, new: PolicyText) -> set[str]:
    """Give the tenants in which somebody's roles changed."""
    before, after = ({(link.who, link.role, link.tenant) for link in text.roles} for text in (old, new))
    return {tenant for _, _, tenant in before ^ after}


def _without(access: Access) -> tuple[object, ...]:
    terms = access.terms
    return access.level, terms.allowed_if, terms.denied_if, terms.held_if


def _meant(rules: Iterable[Rule]) -> set[tuple[str, ...]]:
    """What rules mean for one tool and tenant: all but id, and how tool and tenant are named."""
    return {(*rule.cells[1:3], *rule.cells[6:]) for rule in rules if not rule.shadow}


def _signature(rules: Iterable[Rule]) -> set[tuple[str, ...]]:
    """What rules mean to somebody whom they concern: all but id, whom, where and which tool."""
    return {(rule.cells[1], *rule.cells[6:]) for rule in rules}


def _direction(was: Access, becomes: Access, witnesses: Sequence[Witness]) -> Direction:
    ways: set[Direction] = {witness.direction for witness in witnesses}
    if was.level != becomes.level:
        ways.add("gain" if LEVELS.index(becomes.level) > LEVELS.index(was.level) else "loss")
    if len(ways) > 1:
        return "both"
    return ways.pop() if ways else "unclear"


def _witnesses(
    before: Survey,
    after: Survey,
    caller: Caller,
    tool: Tool,
    tries: Iterable[JsonObject],
) -> Iterator[Witness]:
    for arguments in tries:
        question = asked(caller, tool, arguments, ANY_TIME)
        was, becomes = before.policy.decide(question).verdict, after.policy.decide(question).verdict
        if was != becomes:
            yield Witness(arguments=arguments, before=was, after=becomes)


def _one_each_way(witnesses: Sequence[Witness]) -> tuple[Witness, ...]:
    first: dict[str, Witness] = {}
    for witness in witnesses:
        first.setdefault(witness.direction, witness)
    return tuple(first.values())


def _obligations(old: Sequence[Rule], new: Sequence[Rule]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Say what is no longer obliged to, and what is now; a rule with a condition obliges where it holds."""
    was, becomes = (
        {_Duty(rule): rule for rule in rules if rule.obligations.spelled()} for rules in (old, new)
    )
    lost = {spelled for duty in was.keys() - becomes.keys() for spelled in duty.lost(becomes)}
    gained = {spelled for duty in becomes.keys() - was.keys() for spelled in duty.lost(was)}
    return tuple(sorted(lost)), tuple(sorted(gained))


class _Duty:
    """What one rule obliges to, and when."""

    def __init__(self, rule: Rule) -> None:
        self.when, self.what = rule.cells[6], rule.obligations

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Duty) and (self.when, self.what) == (other.when, other.what)

    def __hash__(self) -> int:
        return hash((self.when, self.what))

    def lost(self, others: Iterable["_Duty"]) -> Iterator[str]:
        """Give what none of the others obliges to as strictly, whenever this one does."""
        left = together(other.what for other in others if other.when in {NONE, self.when})
        suffix = "" if self.when == NONE else f" when {self.when}"
        if mask := self.what.mask - left.mask:
            yield f"mask={'|'.join(sorted(mask))}{suffix}"
        rows = self.what.rows
        if rows is not None and (left.rows is None or left.rows > rows):
            yield f"rows={rows}{suffix}"
        capture = self.what.capture
        if capture is not None and (
            left.capture is None or _CAPTURES.index(left.capture) > _CAPTURES.index(capture)
        ):
            yield f"capture={capture}{suffix}"
        if self.what.dynamic and not left.dynamic:
            yield f"credential=dynamic{suffix}"


def _merged(shifts: Iterable[Shift]) -> list[Shift]:
    """Join those for which the same changes; what is gained stands first."""
    together_: dict[tuple[object, ...], Shift] = {}
    for shift in shifts:
        key = (
            shift.tenant, shift.tool, shift.before.level, shift.after.level, shift.before.terms,
            shift.after.terms, shift.direction, shift.obligations_lost, shift.obligations_new,
        )  # fmt: skip
        known = together_.get(key)
        people = shift.people if known is None else (*known.people, *shift.people)
        together_[key] = replace(shift, people=people)
    order = ("gain", "both", "unclear", "loss")
    return sorted(together_.values(), key=lambda s: (order.index(s.direction), s.tenant, s.tool, s.people))


def place_of(rule: Rule) -> str:
    """Say where a rule stands."""
    return f"{rule.file}:{rule.line}"


_CELLS: Final = ("effect", "who", "tenant", "tool", "action", "when", "unless", "with")
