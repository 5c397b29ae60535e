"""People for whom the operating system vouches: over stdio and at the command line."""

import os
import pwd
from pathlib import Path
from typing import Final

from toolgate.core.call import Caller
from toolgate.core.errors import Fault, Misconfigured
from toolgate.settings import FILE, Settings

LOCAL_ISSUER: Final = "urn:toolgate:local"
"""The issuer of callers that are named in `toolgate.toml`: the operating system vouches for them."""

OS_ISSUER: Final = "urn:toolgate:os"
"""The issuer of people whom the operating system names."""


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


def named_caller(settings: Settings, name: str, issuer: str = LOCAL_ISSUER) -> Caller:
    """Give the caller that `[callers.NAME]` describes.

    Raises:
        Misconfigured: there is none of that name.
    """
    named = settings.callers.get(name)
    if named is None:
        known = ", ".join(sorted(settings.callers)) or "none"
        raise Misconfigured([Fault(FILE, "callers", f"there is no caller {name!r}", f"there are: {known}")])
    return Caller(
        subject=named.subject,
        issuer=issuer,
        tenant=named.tenant,
        client=name,
        roles=named.roles,
        scopes=named.scopes,
    )


def demand_owner(root: Path, deed: str) -> None:
    """Let only the user who owns the deployment do what no token speaks for.

    Args:
        root: the deployment's folder.
        deed: what only that user may do, such as "may settle calls".

    Raises:
        Misconfigured: somebody else asks.
    """
    owner = root.stat().st_uid
    if owner != os.getuid():
        problem = f"it belongs to user {owner}, and only that user {deed}"
        raise Misconfigured([Fault(str(root), "owner", problem, "ask that user")])


def os_person() -> Caller:
    """Give the user whom the system knows, not the one that the environment claims."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"uid {os.getuid()}"
    return Caller(subject=name, issuer=OS_ISSUER, tenant="")
