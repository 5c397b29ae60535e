"""Arguments of unusual schemas: one that clients repeat in a header, and all of JSON Schema 2020-12."""

from typing import Any

from pydantic import BaseModel, Field

from tests.conformance.adapter.suite import Here, suite
from toolgate.adapter import Content, Text

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


class Region(BaseModel):
    region: str = Field(json_schema_extra={"x-mcp-header": "Region"})


class Contact(BaseModel):
    name: str = ""
    address: dict[str, str] = Field(default_factory=dict)
    contactMethod: str = ""  # noqa: N815 - the suite's name
    phone: str = ""
    email: str = ""

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401 - pydantic's
        del args, kwargs
        return SCHEMA


@suite.operation
async def region(wanted: Region, context: Here) -> Content:
    """Say which region was asked for."""
    del context
    return Content(content=(Text(text=wanted.region),))


@suite.operation
async def schema_2020_12_tool(wanted: Contact, context: Here) -> Content:
    """Tool with JSON Schema 2020-12 features."""
    del context
    return Content(content=(Text(text=wanted.name),))
