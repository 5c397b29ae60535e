"""Why we could not do our work. Expected ends are values (`Outcome`), not these."""

import traceback
from dataclasses import dataclass
from pathlib import Path


class LedgerUnavailable(Exception):  # noqa: N818 - named by what is the matter
    """The ledger could not be written or read; whoever asked must assume that nothing was recorded."""


class NothingRecorded(Exception):  # noqa: N818
    """The ledger was read, and what was asked for is not in it."""


class CredentialUnavailable(Exception):  # noqa: N818
    """There is no credential for the call, and so nothing was done.

    Args:
        code: a stable word for programs.
        retryable: whether it may be there later without anybody's doing.
    """

    def __init__(self, code: str, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable


@dataclass(frozen=True)
class Fault:
    """Something in a file that `serve` would refuse: where it is, what is wrong, what to do."""

    file: str
    place: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}: {self.place}: {self.problem} ({self.remedy})"


class Misconfigured(Exception):  # noqa: N818
    """The deployment cannot be served as it stands. Holds every fault that was found, not only the first."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = faults


def without_values(error: Exception) -> str:
    """Say what was raised, and where, for the log: its message may hold arguments, answers or worse."""
    frames = traceback.extract_tb(error.__traceback__)
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames[::-1])
    cause = f" from {type(error.__cause__).__name__}" if error.__cause__ else ""
    return f"{type(error).__name__}{cause} at {places}"
