"""Reads and writes `registry/lock.toml`. It is made for reviews: what changed is a changed line."""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints, ValidationError

from toolgate.adapter import Effect
from toolgate.backends.manifest_catalog import LOCK
from toolgate.backends.registry_pins import Pin
from toolgate.backends.registry_spelling import toml_text, visible, visible_json
from toolgate.backends.replacing import replace_file
from toolgate.core.errors import Fault, Misconfigured
from toolgate.core.record import JsonObject, Record
from toolgate.core.strict_json import parse

FILE: Final = f"registry/{LOCK}"
LARGEST: Final = 33_554_432
"""Bytes of the file: some ten thousand operations."""
_ANEW: Final = "take the last good one from your versions, or pin what is admitted: toolgate registry lock"
_HEAD: Final = """\
# What was reviewed of every admitted operation: a tool that is not as it stands here is not served.
# Written by `toolgate registry lock`. Review a change of this file as you review code: these texts are what a
# model reads, and a changed one can tell it anything. docs/how-to/registry-lock.md
version = 1
"""


class _Pinned(Record):
    """A `[tools."SYSTEM.OPERATION"]` table."""

    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    adapter: str
    effect: Effect
    title: str
    description: str
    input: str
    """A JSON Schema, as text: a reviewer reads it line by line."""
    output: str
    resource: str = ""
    prompt: bool = False


_Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+\.[a-z0-9_-]+$")]


class _Lock(Record):
    """The file."""

    version: Literal[1]
    tools: dict[_Name, _Pinned] = Field(default_factory=dict)


def read_pins(folder: Path) -> tuple[dict[str, Pin] | None, list[Fault]]:
    """Read what is pinned, by tool; None where there is no such file, or anything is wrong with it."""
    try:
        text = _text(folder / LOCK)
    except (OSError, UnicodeDecodeError) as error:
        return None, [Fault(FILE, "file", f"it cannot be read ({error})", _ANEW)]
    except ValueError as error:
        return None, [Fault(FILE, "file", str(error), _ANEW)]
    if text is None:
        return None, []
    try:
        lock = _Lock.model_validate(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        return None, [Fault(FILE, "syntax", visible(str(error)), _ANEW)]
    except ValidationError as error:
        return None, [_fault(fault["loc"], fault["msg"], fault["type"]) for fault in _told(error)]
    faults: list[Fault] = []
    pins = {name: pin for name, pinned in lock.tools.items() if (pin := _pin(name, pinned, faults))}
    return (None, faults) if faults else (pins, [])


def write_pins(folder: Path, pins: Mapping[str, Pin]) -> bool:
    """Put `pins` in place of what was pinned, as a whole; False where the file says just that already.

    Raises:
        Misconfigured: it cannot be written, or would be too large to be read.
    """
    file, text = folder / LOCK, spelled(pins.values())
    if len(text.encode()) > LARGEST:
        problem = f"it would be larger than {LARGEST} bytes, and is not written"
        raise Misconfigured([Fault(FILE, "file", problem, "admit fewer operations")])
    try:
        if file.is_file() and file.read_bytes() == text.encode():
            return False
        replace_file(file, text)
    except OSError as error:
        raise Misconfigured([Fault(FILE, "file", str(error), "make the folder writable")]) from error
    return True


def spelled(pins: Iterable[Pin]) -> str:
    """Spell the file: by name of the tool, and the same bytes for the same pins."""
    tables = [_table(pin) for pin in sorted(pins, key=lambda pin: pin.tool)]
    return _HEAD + "".join(f"\n{table}" for table in tables)


def _table(pin: Pin) -> str:
    offered = [f"resource = {toml_text(pin.resource)}"] if pin.resource else []
    offered += ["prompt = true"] if pin.prompt else []
    lines = [
        f'[tools."{pin.tool}"]',
        f'digest = "{pin.digest}"',
        f"adapter = {toml_text(pin.adapter)}",
        f"effect = {toml_text(pin.effect)}",
        f"title = {toml_text(pin.title)}",
        *offered,
        f"description = {toml_text(pin.description)}",
        f"input = {_schema_text(pin.input)}",
        f"output = {_schema_text(pin.output)}",
    ]
    return "\n".join(lines) + "\n"


def _schema_text(schema: JsonObject) -> str:
    """Spell a schema between three apostrophes, of which JSON can do without any in a row."""
    return "'''\n" + visible_json(schema, indent=2).replace("''", "'\\u0027") + "\n'''"


def _text(file: Path) -> str | None:
    """Give the file's text; None where there is none.

    Raises:
        ValueError: it is too large.
        OSError: it cannot be read.
    """
    try:
        with file.open("rb") as opened:
            written = opened.read(LARGEST + 1)
    except FileNotFoundError:
        return None
    if len(written) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST} bytes")
    return written.decode()


def _pin(name: str, pinned: _Pinned, faults: list[Fault]) -> Pin | None:
    """Make the pin of a table; nothing, and a fault more, where the table does not hold together."""
    schemas: dict[str, JsonObject] = {}
    for part in ("input", "output"):
        try:
            schemas[part] = _schema(getattr(pinned, part))
        except (ValueError, RecursionError) as error:
            problem = f"it is no JSON Schema ({visible(str(error))})"
            faults.append(Fault(FILE, f"tools.{name}.{part}", problem, _ANEW))
            return None
    pin = Pin(
        tool=name,
        adapter=pinned.adapter,
        effect=pinned.effect,
        title=pinned.title,
        description=pinned.description,
        input=schemas["input"],
        output=schemas["output"],
        resource=pinned.resource,
        prompt=pinned.prompt,
    )
    if not _is_of(pin, pinned.digest):
        problem = "it is not the digest of what stands below it: the file was changed by hand, or merged"
        faults.append(Fault(FILE, f"tools.{name}.digest", problem, _ANEW))
        return None
    return pin


def _is_of(pin: Pin, digest: str) -> bool:
    try:
        return pin.digest == digest
    except (ValueError, RecursionError):  # what cannot be spelled was never pinned
        return False


def _schema(text: str) -> JsonObject:
    """Read a schema as it was written: one that can be read in two ways would deceive its reviewer.

    Raises:
        ValueError: it is not JSON that everybody reads alike, or not an object.
    """
    schema = parse(text.encode())
    if not isinstance(schema, dict):
        raise ValueError("an object is expected")  # noqa: TRY004 - as whatever else is wrong with it
    return schema


def _told(error: ValidationError) -> list[Any]:
    return list(error.errors(include_input=False, include_url=False))


def _fault(location: tuple[int | str, ...], problem: str, kind: str) -> Fault:
    place = ".".join(visible(str(part)) for part in location)
    if kind == "extra_forbidden":
        remedy = f"remove it; a system's manifest needs another name than {LOCK}"
        return Fault(FILE, place, "there is no such key in a lock", remedy)
    return Fault(FILE, place, problem, _ANEW)
