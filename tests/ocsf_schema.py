"""What the Open Cybersecurity Schema Framework, 1.9.0-dev, demands of the events that the gate writes.

Read from the schema's own pages (schema.ocsf.io): of three classes and the objects in them the attributes
that we fill and all that are required. What is not here is not looked up yet, and so refused.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast


@dataclass(frozen=True)
class Shape:
    """A class of events, or an object in them."""

    required: Mapping[str, str]
    """Type of each attribute: `str`, `int`, `json` (anything), an object's name, `[...]` for a list of it."""
    other: Mapping[str, str] = field(default_factory=dict[str, str])
    one_of: tuple[str, ...] = ()
    """At least one of these must be there."""
    enums: Mapping[str, frozenset[int]] = field(default_factory=dict[str, frozenset[int]])


_REQUIRED: Final = {
    "activity_id": "int",
    "category_uid": "int",
    "class_uid": "int",
    "metadata": "metadata",
    "severity_id": "int",
    "time": "int",
    "type_uid": "int",
}
_OTHER: Final = {
    "activity_name": "str",
    "category_name": "str",
    "class_name": "str",
    "severity": "str",
    "status_id": "int",
    "status": "str",
    "status_code": "str",
    "message": "str",
    "raw_data": "str",
    "unmapped": "json",
    "attestation_list": "[attestation]",  # profile record_integrity
    "ai_agent": "ai_agent",  # profile ai_operation
}
_STATUS: Final = frozenset({0, 1, 2, 99})
_SEVERITY: Final = frozenset({0, 1, 2, 3, 4, 5, 6, 99})
_ENUMS: Final = {"status_id": _STATUS, "severity_id": _SEVERITY, "category_uid": frozenset({6})}

CLASSES: Final = {
    6003: Shape(
        _REQUIRED | {"actor": "actor", "api": "api", "src_endpoint": "network_endpoint"},
        _OTHER | {"trace": "trace"},  # profile trace
        enums=_ENUMS | {"activity_id": frozenset({0, 1, 2, 3, 4, 99})},
    ),
    6002: Shape(
        _REQUIRED | {"app": "product"},
        _OTHER,
        enums=_ENUMS | {"activity_id": frozenset({0, *range(1, 9), 99})},
    ),
    6008: Shape(_REQUIRED, _OTHER, enums=_ENUMS | {"activity_id": frozenset({0, 1, 2, 99})}),
}
OBJECTS: Final = {
    "metadata": Shape(
        {"product": "product", "version": "str"},
        {
            "correlation_uid": "str",
            "event_code": "str",
            "log_name": "str",
            "log_version": "str",
            "profiles": "[str]",
            "sequence": "int",
            "tenant_uid": "str",
            "uid": "str",
        },
    ),
    "product": Shape({}, {"name": "str", "vendor_name": "str", "version": "str"}, one_of=("name", "uid")),
    "attestation": Shape(
        {},
        {"uid": "str", "authority_uid": "str", "chain_uid": "str", "fingerprint": "fingerprint"},
        one_of=("fingerprint", "signatures"),
    ),
    "fingerprint": Shape(
        {"algorithm_id": "int", "value": "str"},
        {"algorithm": "str"},
        enums={"algorithm_id": frozenset({*range(21), 99})},
    ),
    "actor": Shape(
        {},
        {
            "user": "user",
            "session": "session",
            "app_uid": "str",
            "app_name": "str",
            "authorizations": "[authorization]",
        },
        one_of=("process", "user", "iam_role", "invoked_by", "session", "app_name", "app_uid"),
    ),
    "user": Shape({}, {"uid": "str", "name": "str"}, one_of=("account", "name", "uid")),
    "session": Shape({}, {"uid": "str"}),
    "authorization": Shape({}, {"decision": "str", "policy": "policy"}),
    "policy": Shape({}, {"uid": "str"}, one_of=("name", "uid")),
    "api": Shape({"operation": "str"}, {"request": "request", "response": "response", "service": "service"}),
    "request": Shape({"uid": "str"}),
    "response": Shape({}, {"message": "str", "error": "str"}),
    "service": Shape({}, {"name": "str"}, one_of=("name", "uid")),
    "network_endpoint": Shape(
        {},
        {"uid": "str", "name": "str"},
        one_of=("ip", "uid", "name", "hostname", "svc_name", "instance_uid", "interface_uid", "domain"),
    ),
    "ai_agent": Shape({}, {"uid": "str", "name": "str", "instance_uid": "str"}, one_of=("name", "uid")),
    "trace": Shape({"uid": "str"}),
}
_PROFILES: Final = {"attestation_list": "record_integrity", "ai_agent": "ai_operation", "trace": "trace"}
_CAPTIONS: Final = {0: "Unknown", 1: "Success", 2: "Failure"}


def faults_in(event: Mapping[str, Any]) -> list[str]:
    """Say what of an event is against the schema."""
    class_ = event.get("class_uid")
    if class_ not in CLASSES:
        return [f"class_uid: {class_}"]
    found = list(_faults("", event, CLASSES[class_]))
    if found:
        return found
    if event["type_uid"] != class_ * 100 + event["activity_id"]:
        found.append("type_uid is not class_uid * 100 + activity_id")
    if event["category_uid"] != class_ // 1000:
        found.append("category_uid is not the class's")
    if event["activity_id"] == 99 and not event.get("activity_name"):
        found.append("activity_id is Other, and activity_name does not say which")
    if (caption := _CAPTIONS.get(event["status_id"])) and event["status"] != caption:
        found.append("status is not the caption of status_id")
    filled = {profile for name, profile in _PROFILES.items() if name in event}
    if filled != set(event["metadata"]["profiles"]):
        found.append("metadata.profiles are not those whose attributes are filled")
    return found


def _faults(where: str, value: Mapping[str, Any], shape: Shape) -> Iterator[str]:
    types = {**shape.required, **shape.other}
    for name in shape.required.keys() - value.keys():
        yield f"{where}{name} is required"
    if shape.one_of and not value.keys() & set(shape.one_of):
        yield f"{where} needs one of {shape.one_of}"
    for name, said in value.items():
        if name not in types:
            yield f"{where}{name} is no attribute"
        elif name in shape.enums and said not in shape.enums[name]:
            yield f"{where}{name} has no value {said}"
        else:
            yield from _faults_of(f"{where}{name}", said, types[name])


def _faults_of(where: str, value: object, type_: str) -> Iterator[str]:
    if type_.startswith("["):
        if not isinstance(value, list):
            yield f"{where} is no list"
            return
        for number, one in enumerate(cast("list[object]", value)):
            yield from _faults_of(f"{where}[{number}]", one, type_[1:-1])
    elif type_ in OBJECTS:
        if isinstance(value, dict):
            yield from _faults(f"{where}.", cast("dict[str, Any]", value), OBJECTS[type_])
        else:
            yield f"{where} is no object"
    elif type_ != "json" and type(value) is not {"str": str, "int": int}[type_]:
        yield f"{where} is no {type_}"
    elif value == "":
        yield f"{where} says nothing"
