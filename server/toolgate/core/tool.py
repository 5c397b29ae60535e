"""A tool: one operation of one system, admitted on terms."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from pydantic import Field

from toolgate.adapter.context import Effect
from toolgate.core.arguments import Schema
from toolgate.core.canonical import digest
from toolgate.core.credential_roles import CredentialRole
from toolgate.core.record import Json, JsonObject, Record
from toolgate.core.uri_template import UriTemplate

Duplicates = Literal["key", "natural", "query", "none"]
WithoutKey = Literal["require", "guard", "allow"]
Capture = Literal["metadata", "digests", "arguments", "full"]


class Terms(Record):
    """What a manifest says of an operation before it is admitted. What could harm unsaid has no default."""

    effect: Effect
    timeout: float = Field(gt=0, le=3600)
    """Seconds from the act's begin until the gate stops waiting."""
    duplicates: Duplicates
    """How the system prevents or reveals a second effect: by a forwarded key, by the nature of the operation,
    by a look-up, or not at all. It decides what asking again under the same key does where the first outcome
    is unknown: for `key` and `natural` the call is sent again, for `query` the system is asked, for `none` a
    person has to find out."""
    capture: Capture
    """What the ledger keeps: metadata, digests too, the arguments too, or arguments and result."""
    scopes: frozenset[str]
    """OAuth scopes that the caller's token must have."""
    credential: str
    """A role of the manifest's `[credentials]`, or `none`."""
    require_dynamic: bool = False
    """Whether a credential whose secret outlives the call will not do."""
    witnessed: bool = False
    """Whether a call waits, after its intent is durable and for as long as `timeout`, until witnesses have
    cosigned a ledger that holds the intent. Not done without."""
    without_key: WithoutKey = "guard"
    """What happens to a call without an idempotency key: refused, guarded against repetition, or allowed.
    `guard` concerns writes and destroys; a read without a key is not guarded."""
    retries: int = Field(default=0, ge=0, le=5)
    """How often a read that could not be answered is asked again inside its timeout."""
    guard_window: float = Field(default=600, gt=0, le=86_400)
    """Seconds in which an identical call without a key counts as suspected repetition."""
    quiet_period: float = Field(default=30, ge=0, le=86_400)
    """Seconds after which nothing that was sent can still be on its way to the system: only then does a
    look-up that finds nothing show that nothing happened."""
    key_ttl: float = Field(default=86_400, gt=0, le=31_536_000)
    """Seconds for which the system remembers a forwarded key, for `duplicates = "key"`."""


@dataclass(frozen=True, kw_only=True)
class Tool:
    """What a caller can use, as the catalogue holds it."""

    name: str
    """`system.operation`: its name in policies, in the ledger and at the command line."""
    wire_name: str
    """The same in the alphabet that every model's interface accepts: `system_operation`."""
    system: str
    operation: str
    title: str
    description: str
    terms: Terms
    input: Schema
    output: Schema
    credential: CredentialRole | None
    """What it signs in with; None when it needs nothing."""
    helpers: Mapping[str, CredentialRole] = field(default_factory=dict[str, CredentialRole], hash=False)
    """The other roles of its manifest, by name: what `credential` itself may need."""
    gives_content: bool = False
    """Its result is `toolgate.adapter.Content`, and clients see no schema of it."""
    unreviewed: str = ""
    """How it differs from what was reviewed, for the people who keep the registry; empty: it does not. What
    nobody has reviewed is not served."""
    resource: UriTemplate | None = None
    """Where clients may read it as a resource, too."""
    prompt: bool = False
    """Whether clients see it as a prompt, and not among the tools."""

    @cached_property
    def _stricter(self) -> "dict[tuple[Capture, bool], Tool]":
        return {}

    def under(self, capture: Capture, *, require_dynamic: bool = False) -> "Tool":
        """Give the same tool on terms by which the ledger keeps `capture` of a call.

        With `require_dynamic` its credential must end with the call or its run, whatever the manifest says.
        """
        require_dynamic = require_dynamic or self.terms.require_dynamic
        if (capture, require_dynamic) == (self.terms.capture, self.terms.require_dynamic):
            return self
        known = self._stricter.get((capture, require_dynamic))
        if known is None:
            terms = self.terms.model_copy(update={"capture": capture, "require_dynamic": require_dynamic})
            known = self._stricter[capture, require_dynamic] = replace(self, terms=terms)
        return known

    @cached_property
    def definition(self) -> str:
        """Tells this definition, as clients see it, from any other: half a SHA-256, hexadecimal."""
        seen: list[Json] = [self.wire_name, self.title, self.description, self.terms.effect]
        offered: list[Json] = [self.resource.text] if self.resource else []
        offered += ["prompt"] if self.prompt else []
        return digest([*seen, self.input.document, self.shown_output, *offered])[:32]

    @property
    def shown_output(self) -> JsonObject | None:
        """The schema of its result, as clients see it."""
        return None if self.gives_content else self.output.document
