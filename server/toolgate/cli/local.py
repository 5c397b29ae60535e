"""Callers for whom the operating system vouches: over stdio and at the command line."""

import os
from pathlib import Path

from toolgate.core.call import Caller
from toolgate.core.errors import Fault, Misconfigured
from toolgate.main import named_caller
from toolgate.settings import FILE, Settings


def local_caller(root: Path, settings: Settings, name: str | None) -> Caller:
    """Give the caller `name`, or the one that the settings name, to the user who owns the deployment.

    Raises:
        Misconfigured: somebody else asks, or there is no such caller.
    """
    owner = root.stat().st_uid
    if owner != os.getuid():
        problem = f"it belongs to user {owner}, and only that user may call without a token"
        raise Misconfigured([Fault(str(root), "owner", problem, "call over HTTP with a token")])
    chosen = name or settings.local_caller
    if chosen is None:
        problem = "nobody is named as the local caller"
        raise Misconfigured([Fault(FILE, "local_caller", problem, "set it, or say --as CALLER")])
    return named_caller(settings, chosen)
