"""What a vault's answer means for each kind of role."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel, SecretStr, ValidationError

from toolgate.backends.vault.replies import Reply, VaultFault
from toolgate.core.credential_roles import VaultRole

_LONGEST: Final = 31_536_000
_FIELD: Final = re.compile(r"\{(\w+)\}")


class _Version(BaseModel):
    version: int


class _Stored(BaseModel):
    """A version of a stored secret, as KV v2 gives it."""

    data: dict[str, Any]
    metadata: _Version


@dataclass(frozen=True, kw_only=True)
class Read:
    """A credential as it was read."""

    secret: SecretStr = field(repr=False)
    seconds: int
    """How long it lives at most; 0 for a static one."""
    version: int | None = None


def read_of(role: VaultRole, reply: Reply) -> Read:
    """Give the credential that `reply` holds.

    Raises:
        VaultFault: it is not of the kind that the manifest says.
    """
    match role.kind:
        case "kv":
            try:
                stored = _Stored.model_validate(reply.data)
            except ValidationError:
                raise _other("a version of a stored secret (KV v2; its path has /data/ in it)") from None
            return Read(secret=_formed(role, stored.data), seconds=0, version=stored.metadata.version)
        case "dynamic":
            if not reply.lease:
                raise _other("anything with a lease")
            return Read(secret=_formed(role, reply.data), seconds=min(role.ttl, reply.seconds or role.ttl))
        case "token":
            if reply.lease:
                raise _other('a signed token, but something with a lease: say kind = "dynamic"')
            seconds = reply.data.get("ttl", role.ttl)
            if type(seconds) is not int or not 0 < seconds <= _LONGEST:
                raise _other("a token with a ttl in seconds")
            return Read(secret=_formed(role, reply.data), seconds=seconds)


def _formed(role: VaultRole, data: Mapping[str, Any]) -> SecretStr:
    """Put the fields of the answer into the form that the manifest says."""
    for name in _FIELD.findall(role.form):
        if not isinstance(data.get(name), str | int | float):
            problem = f"what the vault gave has no field {name!r}, which the role's secret names"
            raise VaultFault("bad_credential", problem, retryable=False)
    return SecretStr(_FIELD.sub(lambda found: str(data[found[1]]), role.form))


def _other(expected: str) -> VaultFault:
    return VaultFault("bad_credential", f"what the vault gave is not {expected}", retryable=False)
