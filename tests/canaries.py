"""Looks for secrets in everything that a gate wrote or sent, other than the request to the system itself."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

SHAPES: Final = (
    rb"\b(?:hvs|hvb|hvr)\.[A-Za-z0-9_-]{20,}",
    rb"\bs\.[A-Za-z0-9]{24}\b",
    rb"\b[br]\.[A-Za-z0-9_-]{60,}",
)
"""Tokens of HashiCorp Vault and of OpenBao: service, batch, recovery, wrapping."""
PASSWORD: Final = rb"[QXZJ]{32}"
"""What the test's database engine makes passwords of."""
KEPT_BY: Final = frozenset({"keys"})
"""Folders of a deployment that exist to hold secrets."""


def secrets_in(written: bytes, planted: Iterable[str] = ()) -> list[str]:
    """Give where something secret stands in `written`, by a few letters of what stands before it."""
    patterns = [*SHAPES, PASSWORD, *(re.escape(secret.encode()) for secret in planted)]
    return [
        f"after {written[max(0, found.start() - 60) : found.start()]!r}"
        for pattern in patterns
        for found in re.finditer(pattern, written)
    ]


def secrets_under(folder: Path, planted: Iterable[str] = ()) -> list[str]:
    """Give which files hold something secret, but for those that exist to."""
    planted = list(planted)
    return [
        f"{file.relative_to(folder)} {where}"
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not KEPT_BY & set(file.relative_to(folder).parts)
        for where in secrets_in(file.read_bytes(), planted)
    ]
