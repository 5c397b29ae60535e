"""What a manifest declares of one statement, and the schemas that follow from it."""

import re
from datetime import date, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import SchemaError
from sqlalchemy import text

from toolgate.adapter import Effect
from toolgate_adapters.sql_connection import KEY_PARAMETER

Kind = Literal["text", "integer", "number", "boolean", "date", "timestamp"]
_TYPES: Final[dict[Kind, type]] = {
    "text": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "date": date,
    "timestamp": datetime,
}
_BEGINS_AS_READ: Final = re.compile(r"\s*(select|with|values)\b", re.IGNORECASE)

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
_BOUNDS: Final[dict[str, set[Kind]]] = {
    "choices": {"text"},
    "max_length": {"text"},
    "pattern": {"text"},
    "minimum": {"integer", "number"},
    "maximum": {"integer", "number"},
}


def _compiles(pattern: str) -> str:
    try:
        TypeAdapter(Annotated[str, Field(pattern=pattern)])
    except SchemaError as error:
        raise ValueError("it is not a regular expression of the Rust kind") from error
    return pattern


class Parameter(BaseModel):
    """One argument of the tool, bound to `:name` in the statement."""

    model_config = ConfigDict(extra="forbid")

    type: Kind
    description: str = Field(min_length=1)
    default: str | int | float | bool | None = None
    optional: bool = False
    """May be left out; the statement then gets NULL."""
    choices: list[str] | None = Field(default=None, min_length=1)
    minimum: float | None = None
    maximum: float | None = None
    max_length: int | None = Field(default=None, ge=1)
    pattern: Annotated[str, AfterValidator(_compiles)] | None = None

    @model_validator(mode="after")
    def _bounds_suit_the_type(self) -> "Parameter":
        wrong = [
            name
            for name, kinds in _BOUNDS.items()
            if name in self.model_fields_set and self.type not in kinds
        ]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} cannot be said of the type {self.type!r}")
        return self


class Declared(BaseModel):
    """A `[tools.NAME.operation]` table."""

    model_config = ConfigDict(extra="forbid")

    description: str = Field(min_length=1)
    """What a model reads of the tool."""
    statement: str = Field(min_length=1)
    result: Literal["rows", "row", "changed"]
    parameters: dict[Name, Parameter] = Field(default_factory=dict)
    columns: dict[Name, Kind] = Field(default_factory=dict)
    nullable: list[str] = Field(default_factory=list)
    """Columns that may hold NULL."""
    max_rows: int = Field(default=100, ge=1, le=10_000)
    expect_changed: int | None = Field(default=None, ge=1)
    """How many rows a write must change; with any other number it is rolled back."""

    @property
    def names(self) -> set[str]:
        """The names that the statement binds."""
        return set(text(self.statement).compile().params)

    def fault(self, effect: Effect) -> str | None:  # noqa: PLR0911 - one for each fault
        """Say what is wrong with the declaration as a whole, or None."""
        bound, declared = self.names - {KEY_PARAMETER}, set(self.parameters)
        if bound != declared:
            odd = ", ".join(sorted(bound ^ declared))
            return f"parameters: the statement and the parameters do not agree on: {odd}"
        if ";" in self.statement.strip().rstrip(";"):
            return "statement: one statement is expected, without a semicolon in it"
        if effect == "read" and not _BEGINS_AS_READ.match(self.statement):
            return "statement: a read begins with SELECT, WITH or VALUES"
        if effect == "read" and (self.result == "changed" or self.expect_changed is not None):
            return "result: a read changes nothing that could be counted"
        if (self.result == "changed") == bool(self.columns):
            return 'columns: say them for "rows" and "row", and only there'
        if strangers := set(self.nullable) - set(self.columns):
            return f"nullable: there is no column {', '.join(sorted(strangers))}"
        return None


def arguments_model(name: str, declared: Declared) -> type[BaseModel]:
    """Make the model of the arguments."""
    fields: dict[str, Any] = {parameter: _field(said) for parameter, said in declared.parameters.items()}
    return create_model(
        f"{name}_arguments", __config__=ConfigDict(extra="forbid", validate_default=True), **fields
    )


def fault_in_defaults(arguments: type[BaseModel]) -> str | None:
    """Say which parameters have a default that they would not take from a caller, or None."""
    try:
        arguments.model_validate({})
    except ValidationError as error:
        wrong = [f"{fault['loc'][0]}" for fault in error.errors() if fault["type"] != "missing"]
        if wrong:
            return f"parameters: the default of {', '.join(wrong)} is not what it asks of a caller"
    return None


def row_model(name: str, declared: Declared) -> type[BaseModel]:
    """Make the model of one row of the result."""
    fields: dict[str, Any] = {}
    for column, kind in declared.columns.items():
        type_: Any = _TYPES[kind]
        fields[column] = (type_ | None if column in declared.nullable else type_, ...)
    return create_model(f"{name}_row", **fields)


def _field(said: Parameter) -> tuple[Any, Any]:
    type_: Any = _TYPES[said.type]
    if said.choices is not None:
        type_ = Literal[tuple(said.choices)]
    bounds: dict[str, Any] = {
        "ge": said.minimum,
        "le": said.maximum,
        "max_length": said.max_length if said.choices is None else None,
        "pattern": said.pattern,
        "allow_inf_nan": False if said.type == "number" else None,
    }
    if said.type == "integer":
        bounds |= {sign: int(bounds[sign]) for sign in ("ge", "le") if bounds[sign] is not None}
    known = {sign: bound for sign, bound in bounds.items() if bound is not None}
    if said.optional:
        type_ = type_ | None
    default = said.default if said.default is not None or said.optional else ...
    return Annotated[type_, Field(description=said.description, **known)], default
