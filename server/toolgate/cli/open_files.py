"""As many open files as connections need: a flood must not take those of the ledger."""

import resource

from toolgate.core.errors import Fault
from toolgate.core.limits import Limits
from toolgate.settings import FILE


def make_room(limits: Limits) -> list[Fault]:
    """Let this process open as many files as `limits` need; or say why it cannot."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY in {soft, hard} or limits.files <= hard:
        if soft != resource.RLIM_INFINITY and soft < limits.files:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limits.files, hard))
        return []
    problem = f"they need {limits.files} file descriptors, and this process may open {hard}"
    return [Fault(FILE, "limits.max_connections", problem, "lower it, or raise LimitNOFILE (ulimit -Hn)")]
