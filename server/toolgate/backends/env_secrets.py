"""The gate's own environment as a source of static secrets, for CI and servers that one client starts."""

import os
from collections.abc import Iterator, Mapping
from typing import Final

from pydantic import SecretStr

from toolgate.backends.lending import Static, Wanted, static_lease
from toolgate.core.credential_roles import CredentialRole, EnvRole
from toolgate.core.errors import CredentialUnavailable
from toolgate.core.lease import Lease

_OWN: Final = ("TOOLGATE_", "VAULT_", "BAO_")
"""How variables begin that could open the keystore or the vault to a tool."""


class EnvSource(Static):
    """Lends variables of the environment, as they were when the gate began; never the gate's own.

    Args:
        environment: the variables; the process's own by default.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        given = os.environ if environment is None else environment
        self._environment = {name: value for name, value in given.items() if not _is_own(name)}

    async def lend(self, wanted: Wanted) -> Lease:
        """Lend the variable that the role names.

        Raises:
            CredentialUnavailable: it is not set, is empty, or is the gate's own.
        """
        role = wanted.role
        if not isinstance(role, EnvRole):
            raise TypeError(f"{wanted.name} is no variable of the environment")
        for problem, remedy in self.faults(role):
            raise CredentialUnavailable("no_credential", f"{problem}; {remedy}", retryable=False)
        return static_lease(wanted, SecretStr(self._environment[role.secret]))

    def faults(self, role: CredentialRole) -> Iterator[tuple[str, str]]:
        """Say what would keep the role from being lent, and what to do."""
        if not isinstance(role, EnvRole):
            return
        if _is_own(role.secret):
            yield f"{role.secret} is the gate's own, and is lent to nobody", "name another variable"
        elif not self._environment.get(role.secret):
            yield f"the environment has no {role.secret}", "set it where the gate is started"


def _is_own(name: str) -> bool:
    return name.upper().startswith(_OWN)
