"""A credential that exists only for its call."""

from dataclasses import dataclass

from pydantic import SecretStr

from toolgate.core.record import Record


@dataclass(frozen=True, kw_only=True)
class Lease:
    """Lives in memory for one call. A dataclass, not a `Record`: it must not be stored."""

    id: str
    secret: SecretStr
    static: bool
    """The secret itself outlives the call: a keystore entry, not one that was made for the call."""


class Lent(Record):
    """What the ledger says of a lease: everything but the secret."""

    id: str
    role: str
    static: bool
