"""Operations that change the gate's own registry, as its keepers would, so that lists of tools change."""

import os
import re
import signal
from pathlib import Path

from tests.conformance.adapter.suite import Here, Nothing, suite
from toolgate.adapter import Content, Text

_TITLE = re.compile(r"(?<=title = \"Version )\d+")


@suite.operation
async def trigger_tool_change(_: Nothing, context: Here) -> Content:
    """Give one tool another title."""
    return _changed(context.client)


@suite.operation
async def trigger_prompt_change(_: Nothing, context: Here) -> Content:
    """Give one tool another title: clients are told of each list that it may have changed."""
    return _changed(context.client)


@suite.operation
async def listed(_: Nothing, context: Here) -> Content:
    """Be listed, with a title that changes."""
    del context
    return Content(content=())


def _changed(root: Path) -> Content:
    manifest = root / "registry" / "changing.toml"
    text = _TITLE.sub(lambda found: str(int(found[0]) + 1), manifest.read_text("utf-8"))
    draft = manifest.with_suffix(".draft")
    draft.write_text(text, "utf-8")
    draft.replace(manifest)
    os.kill(os.getpid(), signal.SIGHUP)  # the gate would look by itself, and the suite waits for 1.5 s only
    return Content(content=(Text(text="changed"),))
