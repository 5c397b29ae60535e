"""What a vault answers, and what it means when it does not do what it was asked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from toolgate.core.errors import CredentialUnavailable


class VaultFault(CredentialUnavailable):
    """The vault did not do what it was asked. The message is for the caller, and holds nothing secret.

    Args:
        unanswered: whether it gave no answer, so that nobody can tell what it did.
    """

    def __init__(self, code: str, message: str, *, retryable: bool, unanswered: bool = False) -> None:
        super().__init__(code, message, retryable=retryable)
        self.unanswered = unanswered


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the vault answered. Its repr shows no value."""

    request: str
    """Its id, as in the vault's audit log."""
    data: Mapping[str, Any] = field(repr=False)
    auth: Mapping[str, Any] = field(repr=False)
    lease: str = ""
    seconds: int = 0

    @property
    def token(self) -> SecretStr:
        """The token that was made.

        Raises:
            VaultFault: there is none.
        """
        made = self.auth.get("client_token")
        if not isinstance(made, str) or not made:
            raise VaultFault("vault_error", "the vault's answer has no token", retryable=True)
        return SecretStr(made)
