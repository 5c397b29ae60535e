"""What a decision obliges the gate to do with a call's result, its record and its credential."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, get_args

from toolgate.core.record import Json, JsonObject
from toolgate.core.tool import Capture

MASKED: Final = "[masked]"
_RANKS: Final[Mapping[Capture, int]] = {capture: rank for rank, capture in enumerate(get_args(Capture))}


@dataclass(frozen=True, slots=True)
class Obligations:
    """What rules oblige to. They are the same for a replay, under the rules in force when it is asked for."""

    mask: frozenset[str] = frozenset()
    """Names of fields, at any depth of the result, whose values the caller does not get."""
    rows: int | None = None
    """How many items each list at the top of the result has at most."""
    capture: Capture | None = None
    """What the ledger keeps of the call at most."""
    dynamic: bool = False
    """Whether only a credential is lent that ends with the call or its run."""

    def spelled(self) -> list[str]:
        """Write them as the `with` cell of a rule has them, in a fixed order."""
        parts = [f"mask={'|'.join(sorted(self.mask))}"] if self.mask else []
        parts += [f"rows={self.rows}"] if self.rows is not None else []
        parts += [f"capture={self.capture}"] if self.capture else []
        return parts + (["credential=dynamic"] if self.dynamic else [])

    @property
    def of_the_result(self) -> "Obligations":
        """Those that are about what the caller sees."""
        return Obligations(self.mask, self.rows)

    def on(self, result: JsonObject) -> JsonObject:
        """Give what the caller may see of `result`."""
        seen = _masked(result, self.mask) if self.mask else result
        if self.rows is None or not isinstance(seen, dict):
            return seen  # type: ignore[return-value] # an object stays one
        return {
            name: value[: self.rows] if isinstance(value, list) else value for name, value in seen.items()
        }

    def least(self, capture: Capture) -> Capture:
        """Give what is kept where a manifest says `capture`: the lesser of both."""
        if self.capture is None or _RANKS[capture] <= _RANKS[self.capture]:
            return capture
        return self.capture


def together(obligations: Iterable[Obligations]) -> Obligations:
    """Join what several rules oblige to: of each kind the strictest, and every mask."""
    mask: frozenset[str] = frozenset()
    rows: int | None = None
    capture: Capture | None = None
    dynamic = False
    for one in obligations:
        mask |= one.mask
        if one.rows is not None:
            rows = one.rows if rows is None else min(rows, one.rows)
        if one.capture is not None:
            capture = one.least(capture) if capture else one.capture
        dynamic = dynamic or one.dynamic
    return Obligations(mask, rows, capture, dynamic)


def _masked(value: Json, names: frozenset[str]) -> Json:
    if isinstance(value, dict):
        return {
            name: _hidden(part) if name in names else _masked(part, names) for name, part in value.items()
        }
    if isinstance(value, list):
        return [_masked(part, names) for part in value]
    return value


def _hidden(value: Json) -> Json:
    """Hide a value in a form that its schema still allows: `check` refuses masks where there is none."""
    match value:
        case None | bool() | int() | float():
            return None
        case str():
            return MASKED
        case list():
            return []
        case dict():
            return None
