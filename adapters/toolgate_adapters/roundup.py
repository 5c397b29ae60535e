"""Tickets in a Roundup issue tracker, over its REST interface; `base_url` ends in `/rest/data/`.

A write begins with a message of its own, whose message id holds the call's idempotency key. No page of
the tracker shows it until a ticket refers to it, so making it changes nothing; once one does, the key finds
the ticket. A new ticket is sent to a one-shot link besides: the tracker takes each such link once.
"""

import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Final, Generic, TypeAlias, TypeVar

import httpx
from pydantic import AliasChoices, BaseModel, BeforeValidator, Field, JsonValue, ValidationError

from toolgate.adapter import (
    PREPARING,
    Adapter,
    CannotTell,
    Found,
    HttpContext,
    NotFound,
    NothingDone,
    OutcomeUnknown,
)

_LINK_SECONDS: Final = 30
"""How long a one-shot link is good, and how long a comment may be under way."""
_GRACE_SECONDS: Final = 30
"""How long the tracker may work on a request: its database's own timeout."""
_COMMENT_TRIES: Final = 4
_MESSAGES_SHOWN: Final = 20
_TEXT_SHOWN: Final = 4_000

T = TypeVar("T")
Query: TypeAlias = list[tuple[str, str | int | float | bool | None]]


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


roundup = Adapter("roundup")


@roundup.operation
async def search(wanted: Wanted, context: HttpContext) -> Rows:
    """Find tickets by words in their title, status, priority or assignee, last changed first.

    Gives no messages: read a ticket for those. A name that does not exist is answered with those that do.
    """
    client = context.client
    query: Query = [("title", word) for word in wanted.text.split()]
    query += (await _ids(client, status=wanted.status, priority=wanted.priority)).items()
    if wanted.assigned_to is not None:
        query.append(("assignedto", await _user(client, wanted.assigned_to)))
    query += [("@sort", "-activity,-id"), ("@page_size", str(wanted.limit)), ("@verbose", "2")]
    query.append(("@fields", "title,status,priority,assignedto,activity"))
    reply = await client.get("issue", params=query)
    page = _Reply[_Page[_Issue]].model_validate_json(reply.content).data
    return Rows(tickets=[_row(issue.id, issue) for issue in page.collection], total=page.total)


@roundup.operation
async def read(which: Which, context: HttpContext) -> Ticket:
    """Read one ticket: its fields, its latest messages, and the etag that `change` needs."""
    found = await _read(context.client, which.id)
    issue = found.attributes
    ids = sorted(message.id for message in issue.messages)
    shown = ids[-_MESSAGES_SHOWN:]
    return Ticket(
        **_row(which.id, issue).model_dump(),
        reporter=_label(issue.creator),
        created=issue.creation,
        url=_page_of(context.client, which.id),
        etag=found.etag,
        messages=await _messages(context.client, shown),
        earlier_messages=len(ids) - len(shown),
    )


@roundup.operation
async def create(new: NewTicket, context: HttpContext) -> Opened:
    """Open a new ticket. Search first: the problem may have a ticket already, which `comment` adds to."""
    fields = await _ids(context.client, priority=new.priority)
    trail = _Trail.model_validate(dict(context.remembered))
    kept = time.time() < trail.until
    if not kept:
        if trail.message and (earlier := await _ticket_of_this_call(context)):
            return await _opened(context.client, earlier)
        message = trail.message or await _make_message(context, new.description)
        trail = await _one_shot_link(context, message)
        await context.remember(trail.model_dump())
    body: dict[str, JsonValue] = {"title": new.title, "messages": [str(trail.message)], **fields}
    try:
        reply = await _post(context, f"issue/@poe/{trail.token}", body)
    except NothingDone as refusal:
        if not kept or refusal.code != "upstream_refused":
            raise
        # The link is spent: an earlier attempt reached the tracker after all.
        if earlier := await _ticket_of_this_call(context):
            return await _opened(context.client, earlier)
        why = "the ticket's one-shot link was used before, and no ticket is to be seen"
        raise OutcomeUnknown(why) from refusal
    made = _Reply[_Item].model_validate_json(reply.content).data
    return await _opened(context.client, _Issue(id=made.id, title=new.title))


@roundup.look_up(create)
async def find_created(_new: NewTicket, context: HttpContext) -> Found[Opened] | NotFound | CannotTell:
    """Find the ticket that has this call's message. One that was retired meanwhile is not seen."""
    found = await _ticket_of_this_call(context)
    return Found(await _opened(context.client, found)) if found else _absent(context)


@roundup.operation
async def change(wanted: Change, context: HttpContext) -> Written:
    """Change a ticket's title, status or priority.

    Read it first: only the version that you have seen is changed. If someone changed it since, nothing
    happens, and the answer is `conflict`: read it again, and decide again.
    """
    fields = await _ids(context.client, status=wanted.status, priority=wanted.priority)
    if wanted.title is not None:
        fields["title"] = wanted.title
    if not fields:
        raise NothingDone("bad_arguments", "give a title, a status or a priority to change")
    again = "the ticket was changed since you read it, and is left as it is; read it again"
    with _explained(conflict=again, not_found=_NO_TICKET):
        await _patch(context, wanted.id, dict(fields), wanted.etag)
    return Written(
        id=wanted.id,
        url=_page_of(context.client, wanted.id),
        etag=await _etag_after(context.client, wanted.id),
    )


@roundup.operation
async def comment(new: Comment, context: HttpContext) -> Commented:
    """Add a message to a ticket. It cannot be taken back; the tracker may mail it to those who follow.

    The tracker may set an unread or resolved ticket to chatting by itself.
    """
    trail = _Trail.model_validate(dict(context.remembered))
    ticket = await _read(context.client, new.id)
    message = trail.message or await _make_message(context, new.text)
    until = time.time() + _LINK_SECONDS
    await context.remember(_Trail(message=message, until=until).model_dump())
    if message not in {known.id for known in ticket.attributes.messages}:
        await _add_message(context, new.id, message, ticket.etag)
    return await _commented(context.client, new.id, message)


@roundup.look_up(comment)
async def find_comment(new: Comment, context: HttpContext) -> Found[Commented] | NotFound | CannotTell:
    """Find this call's message on the ticket."""
    ours = await _messages_of_this_call(context)
    on_ticket = {known.id for known in (await _read(context.client, new.id)).attributes.messages}
    for message in ours:
        if message in on_ticket:
            return Found(await _commented(context.client, new.id, message))
    return _absent(context)


_NO_TICKET: Final = "there is no such ticket; search for it by its title"


class _Link(BaseModel):
    id: int
    label: str | None = Field(default=None, validation_alias=AliasChoices("name", "username"))


class _Item(BaseModel):
    id: int


class _Issue(BaseModel):
    """What the tracker tells of a ticket; it leaves out what the signed-in user may not see."""

    id: int = 0
    title: str | None = None
    status: _Link | None = None
    priority: _Link | None = None
    assignedto: _Link | None = None
    creator: _Link | None = None
    creation: Moment | None = None
    activity: Moment | None = None
    messages: list[_Item] = Field(default_factory=list[_Item])


class _Msg(BaseModel):
    id: int
    author: _Link | None = None
    date: Moment | None = None
    content: str | None = None


class _Versioned(BaseModel):
    attributes: _Issue
    quoted_etag: str = Field(alias="@etag")

    @property
    def etag(self) -> str:
        return self.quoted_etag.strip('"')


class _OneShot(BaseModel):
    link: str


class _Page(BaseModel, Generic[T]):
    collection: list[T]
    total: int = Field(alias="@total_size")


class _Reply(BaseModel, Generic[T]):
    data: T


class _Trail(BaseModel):
    """What a write remembers before it sends."""

    message: int = 0
    token: str = ""
    until: float = 0
    """When its request can no longer arrive, by our clock."""


@contextmanager
def _explained(**messages: str) -> Generator[None]:
    """Say of a refusal, by its code, what it means here."""
    try:
        yield
    except NothingDone as refusal:
        if message := messages.get(refusal.code):
            raise NothingDone(refusal.code, message) from refusal
        raise


async def _read(client: httpx.AsyncClient, ticket: int) -> _Versioned:
    query = {"@verbose": "2", "@protected": "true"}
    with _explained(not_found=_NO_TICKET):
        reply = await client.get(f"issue/{ticket}", params=query)
    return _Reply[_Versioned].model_validate_json(reply.content).data


async def _ids(client: httpx.AsyncClient, **names: str | None) -> dict[str, str]:
    """Give the ids of a status and a priority that are named."""
    ids: dict[str, str] = {}
    for kind, name in names.items():
        if name is None:
            continue
        reply = await client.get(kind, params={"@fields": "name"})
        page = _Reply[_Page[_Link]].model_validate_json(reply.content).data
        known = {link.label: link.id for link in page.collection}
        if name not in known:
            there_are = ", ".join(label for label in known if label)
            raise NothingDone("bad_value", f"there is no such {kind}; there are: {there_are}")
        ids[kind] = str(known[name])
    return ids


async def _user(client: httpx.AsyncClient, name: str) -> str:
    reply = await client.get("user", params={"username:": name})
    page = _Reply[_Page[_Item]].model_validate_json(reply.content).data
    if not page.collection:
        raise NothingDone("bad_value", "assigned_to: there is no user of that name")
    return str(page.collection[0].id)


async def _messages(client: httpx.AsyncClient, ids: list[int]) -> list[Message]:
    if not ids:
        return []
    query: Query = [("id", str(number)) for number in ids]
    query += [("@fields", "author,date,content"), ("@verbose", "3")]
    reply = await client.get("msg", params=query)
    page = _Reply[_Page[_Msg]].model_validate_json(reply.content).data
    return [_message(msg) for msg in sorted(page.collection, key=lambda msg: msg.id)]


async def _make_message(context: HttpContext, text: str) -> int:
    body: dict[str, JsonValue] = {
        "content": text,
        "messageid": _message_id(context),
        "date": ".",  # now
        "author": "@current_user",  # a message without an author breaks the ticket that takes it
    }
    # No ticket refers to it yet, so nothing has changed for anyone: that is why it counts as preparing.
    reply = await _post(context, "msg", body, preparing=True)
    return _Reply[_Item].model_validate_json(reply.content).data.id


async def _one_shot_link(context: HttpContext, message: int) -> _Trail:
    until = time.time() + _LINK_SECONDS
    body: dict[str, JsonValue] = {"lifetime": str(_LINK_SECONDS)}
    reply = await _post(context, "issue/@poe", body, preparing=True)
    link = _Reply[_OneShot].model_validate_json(reply.content).data.link
    # Only its end: the credential goes to the manifest's address, wherever the tracker believes to be.
    return _Trail(message=message, token=link.rpartition("/")[2], until=until)


async def _add_message(context: HttpContext, ticket: int, message: int, etag: str) -> None:
    """Link the message, to the ticket's newest version each time that someone else was faster."""
    change: dict[str, JsonValue] = {"@op": "add", "messages": [str(message)]}
    for _ in range(_COMMENT_TRIES):
        try:
            return await _patch(context, ticket, change, etag)
        except NothingDone as refusal:
            if refusal.code != "conflict":
                # Every try before this one was refused too: the whole call did nothing.
                raise NothingDone(refusal.code, refusal.message, retryable=refusal.retryable) from refusal
        etag = (await _read(context.client, ticket)).etag
    busy = "others kept changing the ticket, and no message was added; ask again"
    raise NothingDone("conflict", busy, retryable=True)


async def _messages_of_this_call(context: HttpContext) -> list[int]:
    reply = await context.client.get("msg", params={"messageid:": _message_id(context)})
    page = _Reply[_Page[_Item]].model_validate_json(reply.content).data
    return [item.id for item in page.collection]


async def _ticket_of_this_call(context: HttpContext) -> _Issue | None:
    ours = await _messages_of_this_call(context)
    if not ours:
        return None
    query = {"messages": ",".join(map(str, ours)), "@fields": "title"}
    reply = await context.client.get("issue", params=query)
    page = _Reply[_Page[_Issue]].model_validate_json(reply.content).data
    return page.collection[0] if page.collection else None


def _absent(context: HttpContext) -> NotFound | CannotTell:
    """Say that nothing is there; only once nothing can come any more, that there will be nothing."""
    wait = _Trail.model_validate(dict(context.remembered)).until + _GRACE_SECONDS - time.time()
    if wait > 0:
        return CannotTell(f"the request may still be under way; ask again in {wait:.0f} s")
    return NotFound()


async def _etag_after(client: httpx.AsyncClient, ticket: int) -> str | None:
    """Give the new version if it can be had: a write that is done must not fail for want of it."""
    try:
        reply = await client.get(f"issue/{ticket}", params={"@fields": "title"}, timeout=5)
        return _Reply[_Versioned].model_validate_json(reply.content).data.etag
    except (NothingDone, httpx.HTTPError, ValidationError):
        return None


async def _opened(client: httpx.AsyncClient, issue: _Issue) -> Opened:
    return Opened(
        id=issue.id,
        title=issue.title or "",
        url=_page_of(client, issue.id),
        etag=await _etag_after(client, issue.id),
    )


async def _commented(client: httpx.AsyncClient, ticket: int, message: int) -> Commented:
    return Commented(
        id=ticket,
        message_id=message,
        url=_page_of(client, ticket),
        etag=await _etag_after(client, ticket),
    )


async def _post(
    context: HttpContext, path: str, body: dict[str, JsonValue], *, preparing: bool = False
) -> httpx.Response:
    client = context.client
    extensions = PREPARING if preparing else {}
    return await client.post(path, json=body, headers=_same_site(client), extensions=extensions)


async def _patch(context: HttpContext, ticket: int, body: dict[str, JsonValue], etag: str) -> None:
    headers = {**_same_site(context.client), "If-Match": f'"{etag}"'}
    await context.client.patch(f"issue/{ticket}", json=body, headers=headers)


def _same_site(client: httpx.AsyncClient) -> dict[str, str]:
    """Give what the tracker asks of a write: signs that no page of another site sends it."""
    origin = f"{client.base_url.scheme}://{client.base_url.netloc.decode()}"
    return {"X-Requested-With": "rest", "Origin": origin, "Referer": _site(client)}


def _site(client: httpx.AsyncClient) -> str:
    return str(client.base_url).removesuffix("rest/data/")


def _page_of(client: httpx.AsyncClient, ticket: int) -> str:
    return f"{_site(client)}issue{ticket}"


def _message_id(context: HttpContext) -> str:
    return f"<{context.idempotency_key}@toolgate>"


def _label(link: _Link | None) -> str | None:
    return link.label if link else None


def _row(ticket: int, issue: _Issue) -> Row:
    return Row(
        id=ticket,
        title=issue.title or "",
        status=_label(issue.status),
        priority=_label(issue.priority),
        assigned_to=_label(issue.assignedto),
        updated=issue.activity,
    )


def _message(msg: _Msg) -> Message:
    text = msg.content or ""
    return Message(
        author=_label(msg.author),
        date=msg.date,
        text=text[:_TEXT_SHOWN],
        shortened=len(text) > _TEXT_SHOWN,
    )
