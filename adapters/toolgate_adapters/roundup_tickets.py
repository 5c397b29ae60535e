"""What goes into and comes out of the tracker's operations: this is what a model reads."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, Field


def _from_roundup(value: object) -> object:
    """Read the tracker's `2026-11-20.23:40:17`, which is UTC."""
    return value.replace(".", "T", 1) + "Z" if isinstance(value, str) else value


Moment = Annotated[datetime, BeforeValidator(_from_roundup)]
Id = Annotated[int, Field(ge=1, le=2**31 - 1, description="The ticket's number.")]
Line = Annotated[str, Field(min_length=3, max_length=200, pattern=r"^[^\r\n]*\S[^\r\n]*$")]
Name = Annotated[str, Field(min_length=1, max_length=60)]
Text = Annotated[str, Field(min_length=1, max_length=20_000, pattern=r"\S")]
Etag = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Wanted(BaseModel):
    """What to search for. All that is given must match."""

    text: str = Field(default="", max_length=200, description="Words, each in the title; any case.")
    status: Name | None = Field(default=None, description="A status by name, such as in-progress.")
    priority: Name | None = Field(default=None, description="A priority by name, such as urgent.")
    assigned_to: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9_@!%.+-]{1,100}$", description="A user name, in full."
    )
    limit: int = Field(default=20, ge=1, le=100, description="The most tickets to list.")


class Row(BaseModel):
    """A ticket in a list."""

    id: int
    title: str
    status: str | None
    priority: str | None
    assigned_to: str | None
    updated: datetime | None


class Rows(BaseModel):
    """What a search found."""

    tickets: list[Row] = Field(description="The last changed first.")
    total: int = Field(description="How many tickets match, listed or not.")


class Which(BaseModel):
    """One ticket."""

    id: Id


class Message(BaseModel):
    """One message of a ticket."""

    author: str | None
    date: datetime | None
    text: str
    shortened: bool


class Ticket(Row):
    """A ticket with its messages."""

    reporter: str | None
    created: datetime | None
    url: str
    etag: str = Field(description="Its version: give it to change.")
    messages: list[Message] = Field(description="The latest ones, oldest first.")
    earlier_messages: int = Field(description="How many older ones are not shown.")


class NewTicket(BaseModel):
    """A ticket to open."""

    title: Line = Field(description="What is wrong or wanted, in one line.")
    description: Text = Field(description="Plain text; it becomes the first message.")
    priority: Name | None = Field(default=None, description="A priority by name, such as bug.")


class Change(BaseModel):
    """What to change; what is left out stays as it is. Give at least one of the last three."""

    id: Id
    etag: Etag = Field(description="The etag that `read` gave; it shows that you saw this version.")
    title: Line | None = Field(default=None, description="The new title, in one line.")
    status: Name | None = Field(default=None, description="The new status by name.")
    priority: Name | None = Field(default=None, description="The new priority by name.")


class Comment(BaseModel):
    """A message to add."""

    id: Id
    text: Text = Field(description="Plain text. Everyone who may read the ticket can read it.")


class Written(BaseModel):
    """A ticket after a write."""

    id: int
    url: str = Field(description="Its page, for people.")
    etag: str | None = Field(description="Its version after the write; null: read it to know.")


class Opened(Written):
    """A new ticket."""

    title: str


class Commented(Written):
    """A ticket with a new message."""

    message_id: int
