"""The registry: one manifest a system, in which a reviewer admits its operations on terms."""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import Field, PydanticUserError, ValidationError

from toolgate.adapter import Adapter, Admitted, AnyOperation, Connector, Content, System
from toolgate.backends.adapters_installed import adapter_named
from toolgate.backends.audit_tools import AuditAdapter, audit_adapter
from toolgate.backends.offers import Address, clashes, complaints
from toolgate.core.arguments import Schema, closed, out_of_bounds
from toolgate.core.canonical import digest
from toolgate.core.credential_roles import CredentialRole, OAuthRole
from toolgate.core.errors import Fault
from toolgate.core.record import JsonObject, Record
from toolgate.core.tool import Terms, Tool
from toolgate.core.uri_template import UriTemplate

_NAME: Final = re.compile(r"[a-z0-9_-]+")
_ALPHABET: Final = "use a-z, 0-9, _ and -"
_AUTHOR: Final = "the adapter's author can mend it"
NO_CREDENTIAL: Final = "none"
LOCK: Final = "lock.toml"
"""The one file beside the manifests that is none: what was reviewed of their operations (`registry_lock`)."""


class ToolManifest(Terms):
    """One `[tools.NAME]` table: the terms, how it is shown, and what the adapter is told."""

    title: str = ""
    description: str = ""
    """In place of the adapter's own words."""
    resource: Address | None = None
    """Where clients may read it as a resource."""
    prompt: bool = False
    """Whether it is offered as a prompt, and not among the tools."""
    operation: dict[str, Any] = Field(default_factory=dict)


class Manifest(Record):
    """One file of the registry."""

    adapter: str
    owner: str = Field(min_length=3)
    """Who answers for these terms: a person or a team."""
    system: dict[str, Any] = Field(default_factory=dict)
    credentials: dict[str, CredentialRole] = Field(default_factory=dict)
    tools: dict[str, ToolManifest] = Field(min_length=1)


@dataclass(frozen=True, kw_only=True)
class AdmittedTool(Tool):
    """A tool with the operation and the connection that carry it out."""

    adapter: str
    run_by: AnyOperation
    connector: Connector[Any]


class ManifestCatalog:
    """The admitted tools, by name, as one reading of the registry found them."""

    def __init__(self, tools: Sequence[AdmittedTool], version: str, warnings: Sequence[Fault] = ()) -> None:
        self.tools: tuple[AdmittedTool, ...] = tuple(sorted(tools, key=lambda tool: tool.wire_name))
        self.warnings = tuple(warnings)
        self.digest = version
        self._by_name = {tool.wire_name: tool for tool in tools} | {tool.name: tool for tool in tools}

    def find(self, name: str) -> AdmittedTool | None:
        """Find a tool by its name or its wire name."""
        return self._by_name.get(name)


class Registry:
    """Reads the registry folder, and keeps a connection open for as long as its system does not change.

    Args:
        root: the deployment's folder, from which paths in manifests begin.
        audit: the gate's own adapter, which no entry point brings: it reads the ledger.
    """

    def __init__(self, folder: Path, root: Path, audit: AuditAdapter | None = None) -> None:
        self.folder, self._root, self._own = folder, root, audit or audit_adapter()
        self._connections: dict[str, tuple[Adapter[Any], System, Connector[Any]]] = {}
        self._retired: list[Connector[Any]] = []

    def read(self) -> tuple[ManifestCatalog | None, list[Fault]]:
        """Read all manifests. With any fault there is no catalogue, and every fault is told."""
        faults: list[Fault] = []
        tools: list[AdmittedTool] = []
        texts: JsonObject = {}
        files = sorted(set(self.folder.glob("*.toml")) - {self.folder / LOCK}) if self.folder.is_dir() else []
        if not files:
            problem = "there is no manifest in this folder"
            faults.append(_fault(self.folder, "", problem, "add one, or run: toolgate init"))
        for file in files:
            try:
                text = file.read_text("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                faults.append(_fault(file, "file", f"cannot be read ({error})", "save it as UTF-8"))
                continue
            texts[file.name] = text
            found = _Reader(file, faults).manifest(text, self._own)
            if found is not None:
                tools.extend(self._admit(file, *found, faults))
        faults.extend(_fault(self.folder, *clash) for clash in clashes(tools))
        if faults:
            return None, faults
        return ManifestCatalog(tools, digest(texts)), []

    async def aclose(self) -> None:
        """Close every connection."""
        for connector in (*(known[2] for known in self._connections.values()), *self._retired):
            await connector.aclose()

    def _admit(
        self, file: Path, manifest: Manifest, adapter: Adapter[Any], faults: list[Fault]
    ) -> Iterator[AdmittedTool]:
        system = System(
            name=file.stem,
            root=self._root,
            options=manifest.system,
            tools={
                name: Admitted(effect=tool.effect, options=tool.operation)
                for name, tool in manifest.tools.items()
            },
        )
        try:
            operations = adapter.operations(system)
            connector = self._connection(adapter, system)
        except Exception as error:  # noqa: BLE001 - a stranger's adapter may raise anything
            remedy = f"see docs/reference/registry.md, adapter {manifest.adapter}"
            faults.append(_fault(file, "for its adapter", _words(error), remedy))
            return
        for name, tool in manifest.tools.items():
            reader = _Reader(file, faults)
            operation = reader.operation(name, tool, operations)
            role = reader.role(name, tool, manifest)
            if operation is None or not reader.clean:
                continue
            try:
                admitted = _admitted(system, name, tool, role, manifest, operation, connector)
            except (ValueError, PydanticUserError) as error:
                problem = f"its arguments or result have no JSON Schema: {error}"
                faults.append(_fault(file, f"tools.{name}", problem, _AUTHOR))
                continue
            for key, *said in complaints(admitted, operation.output_model):
                faults.append(_fault(file, f"tools.{name}.{key}", *said))
            yield admitted

    def _connection(self, adapter: Adapter[Any], system: System) -> Connector[Any]:
        known = self._connections.get(system.name)
        if known is not None and known[:2] == (adapter, system):
            return known[2]
        connector = adapter.connect(system)
        if known is not None:
            self._retired.append(known[2])
        self._connections[system.name] = (adapter, system, connector)
        return connector


class _Reader:
    """Reads one manifest and tells its faults with their place."""

    def __init__(self, file: Path, faults: list[Fault]) -> None:
        self._file, self._faults = file, faults
        self.clean = True

    def manifest(self, text: str, own: AuditAdapter) -> tuple[Manifest, Adapter[Any]] | None:
        if not _NAME.fullmatch(self._file.stem):
            self._tell("file", "its name is the system's, and cannot be shown to clients", _ALPHABET)
        try:
            document = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            self._tell("syntax", str(error), "correct the TOML")
            return None
        manifest = self._checked(document)
        if manifest is None:
            return None
        adapter, problem = adapter_named(manifest.adapter, own)
        if adapter is None:
            self._tell("adapter", problem, "install the distribution that brings it")
            return None
        return manifest, adapter

    def _checked(self, document: dict[str, Any]) -> Manifest | None:
        """Give the manifest; when only some tools are wrong, one of the others, whose faults are told too."""
        try:
            return Manifest.model_validate(document)
        except ValidationError as error:
            faults = error.errors(include_input=False, include_url=False)
        for fault in faults:
            self._tell(".".join(map(str, fault["loc"])), fault["msg"], _remedy(fault["type"]))
        places = [fault["loc"] for fault in faults]
        if any(place[0] != "tools" or len(place) == 1 for place in places):
            return None
        wrong = {place[1] for place in places}
        others = {name: tool for name, tool in document["tools"].items() if name not in wrong}
        return Manifest.model_validate(document | {"tools": others}) if others else None

    def operation(
        self, name: str, tool: ToolManifest, operations: Mapping[str, AnyOperation]
    ) -> AnyOperation | None:
        operation = operations.get(name)
        place = f"tools.{name}"
        if not _NAME.fullmatch(name):
            self._tell(place, f"the name {name!r} cannot be shown to clients", _ALPHABET)
        if operation is None:
            known = ", ".join(sorted(operations)) or "none"
            self._tell(place, "its adapter has no such operation", f"it has: {known}")
            return None
        if tool.duplicates == "query" and operation.look_up is None:
            problem = 'duplicates = "query" needs a look-up, and this operation has none'
            self._tell(f"{place}.duplicates", problem, 'say "none", or add a look-up')
        if tool.retries and tool.effect != "read":
            problem = "only a read may be asked again by itself"
            self._tell(f"{place}.retries", problem, "remove it")
        description = tool.description or operation.description
        if not description.strip():
            self._tell(place, "it has no description", "say what it does")
        if fault := out_of_bounds({"description": description}):
            self._tell(place, f"its description: {fault}", _AUTHOR)
        return operation

    def role(self, name: str, tool: ToolManifest, manifest: Manifest) -> CredentialRole | None:
        if tool.credential == NO_CREDENTIAL:
            return None
        role = manifest.credentials.get(tool.credential)
        if role is None:
            problem = f"there is no [credentials.{tool.credential}] in this manifest"
            self._tell(f"tools.{name}.credential", problem, f'add it, or say "{NO_CREDENTIAL}"')
        if isinstance(role, OAuthRole):
            self._client(tool.credential, role, manifest)
        return role

    def _client(self, name: str, role: OAuthRole, manifest: Manifest) -> None:
        client = manifest.credentials.get(role.client)
        if client is None or isinstance(client, OAuthRole):
            problem = f"client: there is no [credentials.{role.client}] with a client's id and secret"
            remedy = "name a role from file, env or vault whose credential is client_id:client_secret"
            self._tell(f"credentials.{name}", problem, remedy)

    def _tell(self, place: str, problem: str, remedy: str) -> None:
        self.clean = False
        self._faults.append(_fault(self._file, place, problem, remedy))


def _admitted(  # noqa: PLR0913, PLR0917 - what a tool is made of
    system: System,
    name: str,
    tool: ToolManifest,
    role: CredentialRole | None,
    manifest: Manifest,
    operation: AnyOperation,
    connector: Connector[Any],
) -> AdmittedTool:
    return AdmittedTool(
        name=f"{system.name}.{name}",
        wire_name=f"{system.name}_{name}",
        system=system.name,
        operation=name,
        title=tool.title or f"{system.name}: {name.replace('_', ' ')}",
        description=tool.description or operation.description,
        terms=Terms(**{field: getattr(tool, field) for field in Terms.model_fields}),
        input=Schema(closed(operation.input_model.model_json_schema(mode="validation"))),
        output=Schema(operation.output_model.model_json_schema(mode="serialization")),
        credential=role,
        gives_content=issubclass(operation.output_model, Content),
        helpers=manifest.credentials,
        adapter=manifest.adapter,
        run_by=operation,
        connector=connector,
        resource=UriTemplate(tool.resource) if tool.resource else None,
        prompt=tool.prompt,
    )


def _fault(file: Path, place: str, problem: str, remedy: str) -> Fault:
    return Fault(f"registry/{file.name}" if file.suffix else "registry", place, problem, remedy)


def _words(error: Exception) -> str:
    """A ValueError speaks for itself; whatever else an adapter raises needs its name said."""
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def _remedy(kind: str) -> str:
    match kind:
        case "missing":
            return "say it: it has no default, see docs/reference/registry.md"
        case "extra_forbidden":
            return "remove it, or correct its spelling"
        case _:
            return "see docs/reference/registry.md"
