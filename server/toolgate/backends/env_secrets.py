"""The gate's own environment as a source of static secrets, for CI and servers that one client starts."""

import os
from collections.abc import Iterator, Mapping
from typing import Final

from pydantic import SecretStr

from toolgate.backends.lending import Static, Wanted
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
        super().__init__()
        given = os.environ if environment is None else environment
        self._environment = {name: value for name, value in given.items() if not _is_own(name)}

    def get(self, name: str) -> SecretStr:
        """Give a variable to the gate itself.

        Raises:
            CredentialUnavailable: it is not set, is empty, or opens the keystore or the vault.
        """
        for problem, remedy in self._faults(name):
            raise CredentialUnavailable("no_credential", f"{problem}; {remedy}", retryable=False)
        return SecretStr(self._environment[name])

    def at_hand(self, wanted: Wanted) -> Lease:
        """Lend the variable that the role names.

        Raises:
            CredentialUnavailable: it is not set, is empty, or is the gate's own.
        """
        role = wanted.role
        if not isinstance(role, EnvRole):
            raise TypeError(f"{wanted.name} is no variable of the environment")
        return self.lease_of(wanted, role.secret, self.get(role.secret))

    async def lend(self, wanted: Wanted) -> Lease:
        """Lend as `at_hand` does: nothing here has to be waited for."""
        return self.at_hand(wanted)

    def faults(self, role: CredentialRole) -> Iterator[tuple[str, str]]:
        """Say what would keep the role from being lent, and what to do."""
        if isinstance(role, EnvRole):
            yield from self._faults(role.secret)

    def _faults(self, name: str) -> Iterator[tuple[str, str]]:
        if _is_own(name):
            yield f"{name} is the gate's own, and is lent to nobody", "name another variable"
        elif not self._environment.get(name):
            yield f"the environment has no {name}", "set it where the gate is started"


def _is_own(name: str) -> bool:
    return name.upper().startswith(_OWN)
