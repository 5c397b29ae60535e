"""What a ledger entry is called in the Open Cybersecurity Schema Framework (schema.ocsf.io).

Calls, and what became of them, are API Activity (6003); what happens to the gate is Application Lifecycle
(6002) or Application Error (6008). docs/reference/exports.md says which field comes from where.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from toolgate import __version__
from toolgate.backends.ledger_reading import Leaf
from toolgate.core.record import JsonObject

SCHEMA: Final = "1.9.0-dev"
"""The first version with the `record_integrity` profile and `ai_agent`; all else is in 1.8.0 too."""

_PRODUCT: Final = {"name": "Toolgate", "vendor_name": "Toolgate", "version": __version__}
_API, _LIFECYCLE, _ERROR = 6003, 6002, 6008
_CLASSES: Final = {
    _API: "API Activity",
    _LIFECYCLE: "Application Lifecycle",
    _ERROR: "Application Error",
}
_UNKNOWN, _OTHER = 0, 99
_ACTIVITIES: Final = {
    (_API, _UNKNOWN): "Unknown",
    (_API, 2): "Read",
    (_API, 3): "Update",
    (_API, 4): "Delete",
    (_LIFECYCLE, 1): "Install",
    (_LIFECYCLE, 3): "Start",
    (_LIFECYCLE, 4): "Stop",
    (_LIFECYCLE, 8): "Update",
    (_ERROR, 1): "General Error",
}
_EFFECTS: Final = {"read": 2, "write": 3, "destroy": 4}
_OF_THE_GATE: Final = {
    "genesis": (_LIFECYCLE, 1),
    "writer_start": (_LIFECYCLE, 3),
    "writer_stop": (_LIFECYCLE, 4),
    "config": (_LIFECYCLE, 8),
    "key_rotate": (_LIFECYCLE, 8),
    "fault": (_ERROR, 1),
    "policy": (_API, 3),
    "audit_read": (_API, 2),
}
"""Class and activity of kinds that are always the same."""
_BY_EFFECT: Final = {"intent", "outcome", "unknown", "late_outcome", "reconcile", "resolve"}

_STATUSES: Final = {0: "Unknown", 1: "Success", 2: "Failure"}
_OUTCOMES: Final = {"done": 1, "failed": 2, "refused": 2, "unknown": 0}
_STANDS: Final = {"refusal": 2, "auth_failure": 2, "unknown": 0}
_UNDER_WAY: Final = {"intent", "reconcile", "resolve", "fault"}
"""Kinds of which nobody can say that they succeeded or failed."""

_SEVERITIES: Final = {1: "Informational", 2: "Low", 3: "Medium", 4: "High"}
_SEVERE: Final = {
    "refusal": 2,
    "resolve": 2,
    "policy": 2,
    "auth_failure": 3,
    "unknown": 3,
    "late_outcome": 3,
    "key_rotate": 3,
    "fault": 4,
}
_MOST_REMEMBERED: Final = 100_000
_TRACE_PARTS: Final = 4
_MAPPED: Final = {"kind", "at", "status", "tenant", "who", "client", "run", "call_id", "tool", "v", "by"}


@dataclass(frozen=True, kw_only=True)
class Log:
    """Which log the events are of."""

    origin: str
    authority: str
    """The key that signs it, as `name+id`."""


class Effects:
    """The effects of calls whose intent went by lately; of others they are looked up.

    Args:
        find: gives the effect of the intent at an index, or an empty text.
    """

    def __init__(self, find: Callable[[int], str]) -> None:
        self._find = find
        self._known: dict[int, str] = {}

    def learn(self, intent: int, effect: str) -> str:
        """Remember an effect, and forget the oldest where there are many; gives the effect."""
        self._known[intent] = effect
        if len(self._known) > _MOST_REMEMBERED:
            del self._known[next(iter(self._known))]
        return effect

    def of(self, intent: int) -> str:
        """Give the effect of an intent."""
        known = self._known.get(intent)
        return self.learn(intent, self._find(intent)) if known is None else known


@dataclass(frozen=True, kw_only=True)
class Events:
    """Spells entries as events.

    Args:
        log: of which log they are.
        effects: what the calls that entries are about were to do.
        clear: gives whom a pseudonym stands for, as far as that is to be told.
        whole: let each event hold its entry, from which its fingerprint can be computed.
    """

    log: Log
    effects: Effects
    clear: Callable[[str], str | None]
    whole: bool

    def line(self, leaf: Leaf) -> bytes:
        """Spell an entry as one line of JSON."""
        return orjson.dumps(self._event(leaf, orjson.loads(leaf.body)), option=orjson.OPT_APPEND_NEWLINE)

    def _event(self, leaf: Leaf, body: JsonObject) -> dict[str, Any]:
        kind = str(body["kind"])
        class_, activity = self._class(kind, body, leaf.index)
        severity, status = _severity(kind, body), _status(kind, body)
        event: dict[str, Any] = {
            "activity_id": activity,
            "activity_name": kind if activity == _OTHER else _ACTIVITIES[class_, activity],
            "category_uid": class_ // 1000,
            "category_name": "Application Activity",
            "class_uid": class_,
            "class_name": _CLASSES[class_],
            "type_uid": class_ * 100 + activity,
            "severity_id": severity,
            "severity": _SEVERITIES[severity],
            "status_id": status,
            "status": _STATUSES.get(status, body["status"]),
            "status_code": body["status"],
            "time": _milliseconds(body["at"]),
            "message": _message(kind, body),
            "metadata": self._metadata(leaf, body),
            "attestation_list": [self._attestation(leaf)],
            "unmapped": {name: value for name, value in body.items() if name not in _MAPPED},
        }
        event["unmapped"]["at_us"] = body["at"]
        if class_ == _API:
            event |= self._api(kind, body)
        if class_ == _LIFECYCLE:
            event["app"] = {"name": "Toolgate", "version": str(body.get("program", __version__))}
        if self.whole:
            event["raw_data"] = leaf.body.decode()
        return event

    def _class(self, kind: str, body: JsonObject, index: int) -> tuple[int, int]:
        if kind in _OF_THE_GATE:
            return _OF_THE_GATE[kind]
        if kind not in _BY_EFFECT:
            return _API, _UNKNOWN if kind in {"refusal", "repeat"} else _OTHER
        intent = body.get("intent")
        if isinstance(intent, int):
            return _API, _EFFECTS.get(self.effects.of(intent), _UNKNOWN)
        return _API, _EFFECTS.get(self.effects.learn(index, f"{body.get('effect')}"), _UNKNOWN)

    def _metadata(self, leaf: Leaf, body: JsonObject) -> dict[str, Any]:
        profiles = ["record_integrity"]
        profiles += ["ai_operation"] if _agent(body) else []
        profiles += ["trace"] if "trace" in body else []
        told = {
            "version": SCHEMA,
            "product": _PRODUCT,
            "profiles": profiles,
            "uid": f"{self.log.origin}/{leaf.index}",
            "sequence": leaf.index,
            "event_code": body["kind"],
            "log_name": self.log.origin,
            "log_version": f"{body['v']}",
        }
        beside = {"correlation_uid": body.get("call_id"), "tenant_uid": body.get("tenant")}
        return told | {name: value for name, value in beside.items() if value}

    def _attestation(self, leaf: Leaf) -> dict[str, Any]:
        fingerprint = {"algorithm_id": 3, "algorithm": "SHA-256", "value": leaf.hash.hex()}
        return {
            "uid": f"{leaf.index}",
            "authority_uid": self.log.authority,
            "chain_uid": self.log.origin,
            "fingerprint": fingerprint,
        }

    def _api(self, kind: str, body: JsonObject) -> dict[str, Any]:
        tool, client = str(body.get("tool", "")), str(body.get("client", ""))
        api: dict[str, Any] = {"operation": tool or _operation(kind, body)}
        api["service"] = {"name": tool.partition(".")[0] if tool else "toolgate"}
        if call := body.get("call_id"):
            api["request"] = {"uid": call}
        if kind in {"outcome", "late_outcome", "refusal", "repeat"}:
            api["response"] = {"message": body["status"]}
            if _status(kind, body) != 1:
                api["response"]["error"] = body["status"]
        told: dict[str, Any] = {"api": api, "actor": self._actor(body)}
        told["src_endpoint"] = {"uid": client} if client else {"name": "unknown"}
        if agent := _agent(body):
            told["ai_agent"] = self._named({"uid": agent}, agent) | _where("instance_uid", body.get("run"))
        trace = str(body.get("trace", "")).split("-")
        if len(trace) == _TRACE_PARTS:
            told["trace"] = {"uid": trace[1]}
        return told

    def _actor(self, body: JsonObject) -> dict[str, Any]:
        who = body.get("who") or body.get("by")
        actor: dict[str, Any] = {"app_name": "unknown"}
        if isinstance(who, str):
            actor = {"user": self._named({"uid": who}, who)}
        if isinstance(client := body.get("client"), str):
            actor |= {"app_uid": client} | _where("app_name", self.clear(client))
        if run := body.get("run"):
            actor["session"] = {"uid": run}
        rules = body.get("rules")
        if isinstance(rules, list) and rules:
            decided = _where("decision", body.get("verdict"))
            actor["authorizations"] = [decided | {"policy": {"uid": rule}} for rule in rules]
        return actor

    def _named(self, told: dict[str, Any], pseudonym: str) -> dict[str, Any]:
        return told | _where("name", self.clear(pseudonym))


def _where(name: str, value: object) -> dict[str, Any]:
    """Say something only where there is something to say."""
    return {name: value} if value else {}


def _agent(body: Mapping[str, Any]) -> str | None:
    """Give the pseudonym of the agent that acts: who acts for the caller, else the client."""
    act = body.get("act") or [body.get("client")]
    return act[0] or None


def _status(kind: str, body: JsonObject) -> int:
    if kind in _STANDS:
        return _STANDS[kind]
    if kind in {"outcome", "late_outcome"}:
        return _OUTCOMES.get(str(body.get("outcome")), _OTHER)
    if kind == "repeat":
        return 1 if body["status"] == "replayed" else 2
    return _OTHER if kind in _UNDER_WAY else 1


def _severity(kind: str, body: JsonObject) -> int:
    if kind == "outcome":
        return {"failed": 2, "unknown": 3}.get(str(body.get("outcome")), 1)
    if kind == "policy" and body.get("override") is True:
        return 3
    return _SEVERE.get(kind, 1)


def _operation(kind: str, body: JsonObject) -> str:
    """Name what was done where no tool was called."""
    return f"ledger.{body.get('query')}" if kind == "audit_read" else f"{kind}.{body['status']}"


def _message(kind: str, body: JsonObject) -> str:
    tool = body.get("tool")
    return f"{kind}: {body['status']}" + (f" ({tool})" if tool else "")


def _milliseconds(at: object) -> int:
    return at // 1000 if isinstance(at, int) else 0
