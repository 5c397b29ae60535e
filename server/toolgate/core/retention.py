"""For how long what lies beside the entries is kept: the `[[retention]]` tables, the first that fits."""

from collections.abc import Sequence
from typing import Final, Literal, Self, get_args

from pydantic import Field, model_validator

from toolgate.core.record import Record

ValueClass = Literal["arguments", "result", "caller", "addresses", "names"]
"""`names`: whom pseudonyms of callers and runs stand for, from their last call on. The others: values."""
EntryKind = Literal["intent", "outcome", "refusal", "late_outcome", "resolve", "auth_failure", "audit_read"]
"""Entries with values beside them that retention removes."""

_CLASSES: Final[dict[str, ValueClass]] = {
    "arguments": "arguments",
    "answers": "arguments",
    "step": "arguments",
    "asked": "arguments",
    "because": "arguments",
    "result": "result",
    "caller": "caller",
    "source": "addresses",
}


class RetentionRule(Record):
    """What is kept for how long, or for as long as the rule stands."""

    tenant: str | None = Field(default=None, min_length=1)
    """Unsaid: every tenant."""
    subject: str | None = Field(default=None, min_length=1)
    """With `hold`: only what is kept of this caller."""
    kinds: tuple[EntryKind, ...] = ()
    """Unsaid: entries of every kind."""
    values: tuple[ValueClass, ...] = get_args(ValueClass)
    """Unsaid: all."""
    days: float | None = Field(default=None, gt=0, le=36_500)
    hold: bool = False
    """Neither retention nor an erasure removes anything: somebody may have to be shown it."""

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if self.hold == (self.days is not None):
            raise ValueError("say either days, or hold = true")
        if self.subject is not None and not self.hold:
            raise ValueError("a subject can only be held; what is kept of one person goes by: ledger erase")
        if self.hold and self.kinds:
            raise ValueError("a hold is of every kind of entry")
        return self

    def holds(self, tenant: str, subject: str) -> bool:
        """Whether nothing may be erased of this person."""
        return self.hold and self.tenant in {None, tenant} and self.subject in {None, subject}


def class_of(field: str) -> ValueClass | None:
    """Give the class of a value by its field in the entry; None where it is never over."""
    return _CLASSES.get(field)


def first_that_fits(
    rules: Sequence[RetentionRule], value: ValueClass, *, tenant: str, kind: str | None, subject: str | None
) -> int | None:
    """Give the number of the rule that decides about a value, or None.

    That is a hold, wherever it stands; else the first that fits. Whom a hold names must be known as long as
    it stands: so it holds names, whatever values it says. `subject` is None where nobody knows it: a run's
    name may be anybody's.
    """
    for number, rule in enumerate(rules):
        of_names = value == "names"
        whose = rule.subject in {None, subject} or (of_names and subject is None)
        if rule.hold and (of_names or value in rule.values) and rule.tenant in {None, tenant} and whose:
            return number
    for number, rule in enumerate(rules):
        if (
            value in rule.values
            and rule.tenant in {None, tenant}
            and rule.subject in {None, subject}
            and (kind is None or not rule.kinds or kind in rule.kinds)
        ):
            return number
    return None
