"""What an operation gives that fills in a prompt: messages, ready to be put into a conversation."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from toolgate.adapter.content import MOST_BLOCKS, Block


class Message(BaseModel):
    """One message: who is to have said it, and what (MCP 2026-07-28, server/prompts, "PromptMessage")."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["user", "assistant"]
    content: Block


class Messages(BaseModel):
    """The result of an operation that can be offered as a prompt: its messages, in their order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    messages: tuple[Message, ...] = Field(min_length=1, max_length=MOST_BLOCKS)
