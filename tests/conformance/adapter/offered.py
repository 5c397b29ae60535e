"""Operations that the suite reads as resources and gets as prompts."""

from pydantic import BaseModel, Field

from tests.conformance.adapter.content import PIXEL
from tests.conformance.adapter.suite import Here, Nothing, suite
from toolgate.adapter import Content, EmbeddedResource, Image, Message, Messages, Text, TextOf


class Which(BaseModel):
    id: str


class Data(BaseModel):
    id: str
    templateTest: bool = True  # noqa: N815 - the suite's name
    data: str


class Two(BaseModel):
    arg1: str = Field(description="First test argument")
    arg2: str = Field(description="Second test argument")


class Embedded(BaseModel):
    resourceUri: str = Field(description="URI of the resource to embed")  # noqa: N815 - the suite's name


class Asked(BaseModel):
    context: str


def _user(*blocks: Text | Image | EmbeddedResource) -> Messages:
    return Messages(messages=tuple(Message(role="user", content=block) for block in blocks))


@suite.operation
async def static_text(_: Nothing, context: Here) -> Content:
    """Give the same text always."""
    del context
    return Content(content=(Text(text="This is the content of the static text resource."),))


@suite.operation
async def static_binary(_: Nothing, context: Here) -> Content:
    """Give the same image always."""
    del context
    return Content(content=(Image(data=PIXEL, mime_type="image/png"),))


@suite.operation
async def template_data(which: Which, context: Here) -> Data:
    """Give the data of an id."""
    del context
    return Data(id=which.id, data=f"Data for ID: {which.id}")


@suite.operation
async def simple_prompt(_: Nothing, context: Here) -> Messages:
    """Give one message."""
    del context
    return _user(Text(text="This is a simple prompt for testing."))


@suite.operation
async def prompt_with_arguments(told: Two, context: Here) -> Messages:
    """Give a message with two arguments in it."""
    del context
    return _user(Text(text=f"Prompt with arguments: arg1='{told.arg1}', arg2='{told.arg2}'"))


@suite.operation
async def prompt_with_embedded_resource(told: Embedded, context: Here) -> Messages:
    """Give a message with a resource in it."""
    del context
    resource = TextOf(
        uri=told.resourceUri, mime_type="text/plain", text="Embedded resource content for testing."
    )
    return _user(
        EmbeddedResource(resource=resource), Text(text="Please process the embedded resource above.")
    )


@suite.operation
async def prompt_with_image(_: Nothing, context: Here) -> Messages:
    """Give a message with an image."""
    del context
    return _user(Image(data=PIXEL, mime_type="image/png"), Text(text="Please analyze the image above."))


@suite.operation
async def input_required_result_prompt(_: Nothing, context: Here) -> Messages:
    """Ask for a part of the message first."""
    asked = context.answer("What context should the prompt use?", Asked, name="user_context")
    return _user(Text(text=f"Use this context: {asked.context}"))
