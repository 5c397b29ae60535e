"""The columns of an export: an entry's own, and those that views ask for, taken out of its body and typed."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

import orjson
from sqlalchemy import Row, RowMapping

from toolgate.backends.audit_fields import FLAGS, WHOLE, column_of
from toolgate.backends.ledger_entries import repeated
from toolgate.core.record import Json

_TEXTS: Final = (
    "accessor",
    "because",
    "by",
    "client",
    "days",
    "definition",
    "detail",
    "digests.adapters",
    "digests.keys",
    "digests.lock",
    "digests.policy",
    "digests.registry",
    "digests.settings",
    "effect",
    "key",
    "lease",
    "made",
    "new",
    "old",
    "origin",
    "outcome",
    "policy",
    "previous",
    "program",
    "query",
    "reasons",
    "request",
    "role",
    "rules",
    "scope",
    "shadow",
    "shadow.policy",
    "shadow.rules",
    "shadow.verdict",
    "source",
    "trace",
    "verdict",
    "writer",
)
"""Fields of a body that are texts, lists or objects: the latter two stand as JSON."""
_LISTS: Final = ("rules", "shadow.rules")
"""Fields of which views ask for the last."""
_SAID: Final = {name: column_of(name) for name in sorted({*_TEXTS, *WHOLE, *FLAGS})}
_LAST: Final = {name: f"{column_of(name)}_last" for name in _LISTS}
_OUTER: Final = {name.partition(".")[0] for name in _SAID if "." in name}
"""Fields whose fields have columns."""
_KEPT: Final = frozenset({"asked", "basis", "because", "source"})
"""Fields of which views ask for the value that is committed to."""

OWN: Final = {
    "idx": "BIGINT",
    "leaf": "BLOB",
    "kind": "VARCHAR",
    "call_id": "VARCHAR",
    "at": "BIGINT",
    "tenant": "VARCHAR",
    "who": "VARCHAR",
    "tool": "VARCHAR",
    "status": "VARCHAR",
    "run": "VARCHAR",
    "refers": "BIGINT",
    "body": "VARCHAR",
}


def _type(name: str) -> str:
    return "BIGINT" if name in WHOLE else "BOOLEAN" if name in FLAGS else "VARCHAR"


ENTRIES: Final[Mapping[str, str]] = {
    **OWN,
    "act": "VARCHAR[]",
    **{column: _type(name) for name, column in _SAID.items()},
    **dict.fromkeys(_LAST.values(), "VARCHAR"),
}
ENDS: Final[Mapping[str, str]] = {"end_entry": "BIGINT", "end_at": "BIGINT", "end_status": "VARCHAR"}
"""Of an intent whose end is in the same file."""
LATE: Final[Mapping[str, str]] = {"intent": "BIGINT", "entry": "BIGINT", "at": "BIGINT", "status": "VARCHAR"}
"""The ends that are in a later file than their intents."""
PAYLOADS: Final[Mapping[str, str]] = {
    "idx": "BIGINT",
    "field": "VARCHAR",
    "salt": "BLOB",
    "value": "VARCHAR",
    "said": "VARCHAR",
    "atoms": "VARCHAR[]",
}
NAMES: Final[Mapping[str, str]] = {
    "name": "VARCHAR",
    "kind": "VARCHAR",
    "value": "VARCHAR",
    "tenant": "VARCHAR",
    "issuer": "VARCHAR",
    "clear": "VARCHAR",
}
CHECKPOINTS: Final[Mapping[str, str]] = {"size": "BIGINT", "at": "BIGINT", "note": "VARCHAR"}
CLAIMS: Final[Mapping[str, str]] = {"call_id": "VARCHAR", "state": "VARCHAR"}
ERASURES: Final[Mapping[str, str]] = {"entry": "BIGINT", "done": "BIGINT"}
ERASED_NAMES: Final[Mapping[str, str]] = {"name": "VARCHAR", "kind": "VARCHAR", "entry": "BIGINT"}
RETENTION_RUNS: Final[Mapping[str, str]] = {"entry": "BIGINT", "first": "BIGINT", "last": "BIGINT"}
VERSIONS: Final[Mapping[str, str]] = {"digest": "VARCHAR", "files": "VARCHAR", "at": "BIGINT"}
ACTIVATIONS: Final[Mapping[str, str]] = {
    "entry": "BIGINT",
    "digest": "VARCHAR",
    "mode": "VARCHAR",
    "previous": "VARCHAR",
}


def said_by(body: bytes) -> dict[str, Any]:
    """Give the columns that are taken out of a body, without those that it does not have."""
    return _said(orjson.loads(body))


def _said(said: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, found in said.items():
        if name in _SAID:
            if type(found) is str or type(found) is int:
                row[_SAID[name]] = found
            else:
                _say(row, name, found)
        if name in _OUTER and isinstance(found, dict):
            for field, value in cast("dict[str, Any]", found).items():
                if f"{name}.{field}" in _SAID:
                    _say(row, f"{name}.{field}", value)
    if "act" in said:
        row["act"] = said["act"]
    return row


def columns_of(said: dict[str, Any]) -> dict[str, Any]:
    """Give all columns of an entry that its body says, without those that it does not have.

    Raises:
        ValueError: no column can hold what it says.
    """
    try:
        return repeated(said) | _said(said)
    except orjson.JSONEncodeError as error:
        raise ValueError("a number is too large, or a text is none") from error


def _say(row: dict[str, Any], name: str, found: Any) -> None:  # noqa: ANN401 - JSON
    """Put what a field holds into its columns."""
    plain = isinstance(found, str | int) or found is None
    row[_SAID[name]] = found if plain else orjson.dumps(found).decode()
    if name in _LAST and isinstance(found, list) and found:
        row[_LAST[name]] = found[-1]


def entry_row(row: Row[Any]) -> dict[str, Any]:
    """Give an entry as it is exported, its leaf in hexadecimal."""
    said = said_by(row.body)
    for name, value in zip(OWN, row, strict=True):
        said[name] = value
    said["leaf"], said["body"] = row.leaf.hex(), row.body.decode()
    return said


def payload_row(row: Row[Any]) -> dict[str, Any]:
    """Give a kept value as it is exported, its salt in hexadecimal."""
    columns: dict[str, Any] = {"idx": row.idx, "field": row.field, "salt": row.salt.hex()}
    return columns if row.value is None else columns | payload_columns(row.field, row.value)


def payload_columns(field: str, spelled: bytes) -> dict[str, Any]:
    """Give the columns that are taken out of a kept value."""
    columns: dict[str, Any] = {"value": spelled.decode()}
    if field == "arguments":
        columns["atoms"] = sorted(set(_atoms(json.loads(spelled))))
    if field in _KEPT:
        value = json.loads(spelled)
        columns["said"] = value if isinstance(value, str) else columns["value"]
    return columns


def name_row(row: RowMapping) -> dict[str, Any]:
    """Give whom a pseudonym stands for as it is exported."""
    tenant, issuer, clear = json.loads(row["value"])
    named = {"tenant": tenant, "issuer": issuer, "clear": clear}
    return {"name": row["name"], "kind": row["kind"], "value": row["value"].decode(), **named}


def _atoms(value: Json) -> Iterator[str]:
    """Give every value that is neither list nor object, as `touched` is asked for it."""
    match value:
        case dict():
            for part in value.values():
                yield from _atoms(part)
        case list():
            for part in value:
                yield from _atoms(part)
        case str():
            yield value
        case bool():
            yield str(int(value))
        case int() | float():
            yield str(value)
        case _:
            pass
