"""Operations that ask the person behind the caller."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, JsonValue

from tests.conformance.adapter.suite import Here, Nothing, suite
from toolgate.adapter import Content, Text


class Message(BaseModel):
    message: str = Field(description="What to ask.")


class Account(BaseModel):
    username: str = Field(description="User's response")
    email: str = Field(description="User's email address")


class Name(BaseModel):
    name: str


class Color(BaseModel):
    color: str


class Agreed(BaseModel):
    ok: bool


class Person(BaseModel):
    name: str = "John Doe"
    age: int = 30
    score: float = 95.5
    status: Literal["active", "inactive", "pending"] = "active"
    verified: bool = True


TITLED: JsonValue = [
    {"const": "value1", "title": "First Option"},
    {"const": "value2", "title": "Second Option"},
    {"const": "value3", "title": "Third Option"},
]
OLD: dict[str, JsonValue] = {
    "enum": ["opt1", "opt2", "opt3"],
    "enumNames": ["Option One", "Option Two", "Option Three"],
}
One = Annotated[str, Field(json_schema_extra={"oneOf": TITLED})]
Some = Annotated[str, Field(json_schema_extra={"anyOf": TITLED})]
Old = Annotated[str, Field(json_schema_extra=OLD)]


class Choices(BaseModel):
    """Every form in which a choice can be asked for (SEP-1330)."""

    untitledSingle: Literal["option1", "option2", "option3"]  # noqa: N815 - the suite's names
    titledSingle: One  # noqa: N815
    legacyEnum: Old  # noqa: N815
    untitledMulti: list[Literal["option1", "option2", "option3"]]  # noqa: N815
    titledMulti: list[Some]  # noqa: N815


def _said(answer: BaseModel) -> Content:
    return Content(content=(Text(text=f"The answer: {answer.model_dump_json()}"),))


@suite.operation
async def elicitation(wanted: Message, context: Here) -> Content:
    """Ask what the caller wants to have asked."""
    return _said(context.answer(wanted.message, Account))


@suite.operation
async def elicitation_sep1034_defaults(_: Nothing, context: Here) -> Content:
    """Ask with a default for every kind of value."""
    return _said(context.answer("Who is it?", Person))


@suite.operation
async def elicitation_sep1330_enums(_: Nothing, context: Here) -> Content:
    """Ask for choices of every form."""
    return _said(context.answer("Which ones?", Choices))


@suite.operation
async def input_required_result_elicitation(_: Nothing, context: Here) -> Content:
    """Ask for a name."""
    name = context.answer("What is your name?", Name, name="user_name")
    return Content(content=(Text(text=f"Hello, {name.name}!"),))


@suite.operation
async def input_required_result_request_state(_: Nothing, context: Here) -> Content:
    """Ask for a confirmation."""
    context.answer("Please confirm", Agreed, name="confirm")
    return Content(content=(Text(text="state-ok"),))


@suite.operation
async def input_required_result_tampered_state(_: Nothing, context: Here) -> Content:
    """Ask for a confirmation, too."""
    context.answer("Please confirm", Agreed, name="confirm")
    return Content(content=(Text(text="confirmed"),))


@suite.operation
async def input_required_result_multi_round(_: Nothing, context: Here) -> Content:
    """Ask two questions, one after the other."""
    name = context.answer("Step 1: What is your name?", Name, name="step1")
    color = context.answer("Step 2: What is your favorite color?", Color, name="step2")
    return Content(content=(Text(text=f"{name.name} likes {color.color}"),))


@suite.operation
async def streaming_elicitation(_: Nothing, context: Here) -> Content:
    """Tell of progress, and ask then."""
    await context.progress(1, 2, "about to ask")
    return _said(context.answer("Go on?", Agreed))


@suite.operation
async def missing_capability(_: Nothing, context: Here) -> Content:
    """Need a client that can ask a person."""
    return _said(context.answer("Go on?", Agreed))
