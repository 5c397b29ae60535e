"""Results of every kind of content, an error, and progress."""

import asyncio
from base64 import b64decode

from tests.conformance.adapter.suite import Here, Nothing, suite
from toolgate.adapter import Audio, Content, EmbeddedResource, Image, NothingDone, Text, TextOf

PIXEL = b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)
SILENCE = b64decode("UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA=")


@suite.operation
async def simple_text(_: Nothing, context: Here) -> Content:
    """Give a text."""
    del context
    return Content(content=(Text(text="This is a simple text response for testing."),))


@suite.operation
async def logging_tool(_: Nothing, context: Here) -> Content:
    """Give a text, and log nothing: no client asked for it."""
    del context
    return Content(content=(Text(text="Nothing was logged."),))


@suite.operation
async def image_content(_: Nothing, context: Here) -> Content:
    """Give an image."""
    del context
    return Content(content=(Image(data=PIXEL, mime_type="image/png"),))


@suite.operation
async def audio_content(_: Nothing, context: Here) -> Content:
    """Give a sound."""
    del context
    return Content(content=(Audio(data=SILENCE, mime_type="audio/wav"),))


@suite.operation
async def embedded_resource(_: Nothing, context: Here) -> Content:
    """Give a resource with what is in it."""
    del context
    told = TextOf(
        uri="test://embedded-resource",
        mime_type="text/plain",
        text="This is an embedded resource content.",
    )
    return Content(content=(EmbeddedResource(resource=told),))


@suite.operation
async def multiple_content_types(_: Nothing, context: Here) -> Content:
    """Give a text, an image and a resource."""
    del context
    told = TextOf(
        uri="test://mixed-content-resource",
        mime_type="application/json",
        text='{"test":"data","value":123}',
    )
    return Content(
        content=(
            Text(text="Multiple content types test:"),
            Image(data=PIXEL, mime_type="image/png"),
            EmbeddedResource(resource=told),
        )
    )


@suite.operation
async def error_handling(_: Nothing, context: Here) -> Content:
    """Fail."""
    del context
    raise NothingDone("on_purpose", "This tool intentionally returns an error for testing")


@suite.operation
async def tool_with_progress(_: Nothing, context: Here) -> Content:
    """Tell how far it has come, three times."""
    for done in (0, 50, 100):
        await context.progress(done, 100, f"Completed step {done} of 100")
        await asyncio.sleep(0.05)
    return Content(content=(Text(text="It is done."),))
