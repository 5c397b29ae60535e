"""What an operation gives that is made to be seen or heard: texts, images, sounds, resources.

An operation whose result is `Content` has no output schema: its blocks go out as MCP content, as they are
(MCP 2026-07-28, server/tools, "Tool Result"). Inside the gate they are JSON as every other result.
"""

import base64
import binascii
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema
from pydantic.alias_generators import to_camel

LARGEST_DATA: Final = 3_000_000
"""Bytes of one image, sound or file; a whole result has 4 MiB of JSON."""
MOST_BLOCKS: Final = 100
_MEDIA_TYPE: Final = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]*/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]*(;.*)?"
"""RFC 6838, section 4.2."""


def octets(data: str) -> bytes:
    """Read base64 as MCP spells it (RFC 4648, section 4: padded, in the standard alphabet).

    Raises:
        ValueError: it is no base64.
    """
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error


def _read(data: Any) -> Any:  # noqa: ANN401 - pydantic tells what is neither
    return octets(data) if isinstance(data, str) else data


Data: TypeAlias = Annotated[
    bytes,
    Field(max_length=LARGEST_DATA),
    BeforeValidator(_read),
    PlainSerializer(lambda data: base64.b64encode(data).decode(), return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]
MediaType: TypeAlias = Annotated[str, Field(pattern=f"^{_MEDIA_TYPE}$", max_length=255)]
Uri: TypeAlias = Annotated[str, Field(pattern="^[A-Za-z][A-Za-z0-9+.-]*:", max_length=8192)]


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
    )


class Text(_Part):
    """Something to read."""

    type: Literal["text"] = "text"
    text: str


class Image(_Part):
    """Something to look at."""

    type: Literal["image"] = "image"
    data: Data
    mime_type: MediaType


class Audio(_Part):
    """Something to hear."""

    type: Literal["audio"] = "audio"
    data: Data
    mime_type: MediaType


class TextOf(_Part):
    """The contents of a resource that is text."""

    uri: Uri
    text: str
    mime_type: MediaType | None = None


class BlobOf(_Part):
    """The contents of a resource that is not text."""

    uri: Uri
    blob: Data
    mime_type: MediaType | None = None


class EmbeddedResource(_Part):
    """A resource, with what is in it."""

    type: Literal["resource"] = "resource"
    resource: TextOf | BlobOf


class ResourceLink(_Part):
    """A resource, by its address alone."""

    type: Literal["resource_link"] = "resource_link"
    uri: Uri
    name: str
    title: str | None = None
    description: str | None = None
    mime_type: MediaType | None = None


Block: TypeAlias = Annotated[
    Text | Image | Audio | EmbeddedResource | ResourceLink, Field(discriminator="type")
]


class Content(BaseModel):
    """The result of an operation that gives blocks in place of a structured value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    content: tuple[Block, ...] = Field(max_length=MOST_BLOCKS)
