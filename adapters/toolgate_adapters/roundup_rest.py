"""Roundup's REST interface, as far as the operations need it."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, Generic, TypeAlias, TypeVar

import httpx
from pydantic import AliasChoices, BaseModel, Field, JsonValue, ValidationError

from toolgate.adapter import PREPARING, CannotTell, HttpContext, NotFound, NothingDone
from toolgate_adapters.roundup_tickets import Commented, Message, Moment, Opened, Row

LINK_SECONDS: Final = 30
"""How long a one-shot link is good, and how long a comment may be under way."""
_GRACE_SECONDS: Final = 30
"""How long the tracker may work on a request: its database's own timeout."""
_COMMENT_TRIES: Final = 4
_TEXT_SHOWN: Final = 4_000

T = TypeVar("T")
Query: TypeAlias = list[tuple[str, str | int | float | bool | None]]

NO_TICKET: Final = "there is no such ticket; search for it by its title"


class _Link(BaseModel):
    id: int
    label: str | None = Field(default=None, validation_alias=AliasChoices("name", "username"))


class Item(BaseModel):
    id: int


class Issue(BaseModel):
    """What the tracker tells of a ticket; it leaves out what the signed-in user may not see."""

    id: int = 0
    title: str | None = None
    status: _Link | None = None
    priority: _Link | None = None
    assignedto: _Link | None = None
    creator: _Link | None = None
    creation: Moment | None = None
    activity: Moment | None = None
    messages: list[Item] = Field(default_factory=list[Item])


class _Msg(BaseModel):
    id: int
    author: _Link | None = None
    date: Moment | None = None
    content: str | None = None


class _Versioned(BaseModel):
    attributes: Issue
    quoted_etag: str = Field(alias="@etag")

    @property
    def etag(self) -> str:
        return self.quoted_etag.strip('"')


class _OneShot(BaseModel):
    link: str


class Page(BaseModel, Generic[T]):
    collection: list[T]
    total: int = Field(alias="@total_size")


class Reply(BaseModel, Generic[T]):
    data: T


class Trail(BaseModel):
    """What a write remembers before it sends."""

    message: int = 0
    token: str = ""
    until: float = 0
    """When its request can no longer arrive, by our clock."""


@contextmanager
def explained(**messages: str) -> Generator[None]:
    """Say of a refusal, by its code, what it means here."""
    try:
        yield
    except NothingDone as refusal:
        if message := messages.get(refusal.code):
            raise NothingDone(refusal.code, message) from refusal
        raise


async def fetch(client: httpx.AsyncClient, ticket: int) -> _Versioned:
    query = {"@verbose": "2", "@protected": "true"}
    with explained(not_found=NO_TICKET):
        reply = await client.get(f"issue/{ticket}", params=query)
    return Reply[_Versioned].model_validate_json(reply.content).data


async def ids_of(client: httpx.AsyncClient, **names: str | None) -> dict[str, str]:
    """Give the ids of a status and a priority that are named."""
    ids: dict[str, str] = {}
    for kind, name in names.items():
        if name is None:
            continue
        reply = await client.get(kind, params={"@fields": "name"})
        page = Reply[Page[_Link]].model_validate_json(reply.content).data
        known = {link.label: link.id for link in page.collection}
        if name not in known:
            there_are = ", ".join(label for label in known if label)
            raise NothingDone("bad_value", f"there is no such {kind}; there are: {there_are}")
        ids[kind] = str(known[name])
    return ids


async def user_id(client: httpx.AsyncClient, name: str) -> str:
    reply = await client.get("user", params={"username:": name})
    page = Reply[Page[Item]].model_validate_json(reply.content).data
    if not page.collection:
        raise NothingDone("bad_value", "assigned_to: there is no user of that name")
    return str(page.collection[0].id)


async def messages_of(client: httpx.AsyncClient, ids: list[int]) -> list[Message]:
    if not ids:
        return []
    query: Query = [("id", str(number)) for number in ids]
    query += [("@fields", "author,date,content"), ("@verbose", "3")]
    reply = await client.get("msg", params=query)
    page = Reply[Page[_Msg]].model_validate_json(reply.content).data
    return [_message(msg) for msg in sorted(page.collection, key=lambda msg: msg.id)]


async def make_message(context: HttpContext, text: str) -> int:
    body: dict[str, JsonValue] = {
        "content": text,
        "messageid": _message_id(context),
        "date": ".",  # now
        "author": "@current_user",  # a message without an author breaks the ticket that takes it
    }
    # No ticket refers to it yet, so nothing has changed for anyone: that is why it counts as preparing.
    reply = await post(context, "msg", body, preparing=True)
    return Reply[Item].model_validate_json(reply.content).data.id


async def one_shot_link(context: HttpContext, message: int) -> Trail:
    until = time.time() + LINK_SECONDS
    body: dict[str, JsonValue] = {"lifetime": str(LINK_SECONDS)}
    reply = await post(context, "issue/@poe", body, preparing=True)
    link = Reply[_OneShot].model_validate_json(reply.content).data.link
    # Only its end: the credential goes to the manifest's address, wherever the tracker believes to be.
    return Trail(message=message, token=link.rpartition("/")[2], until=until)


async def add_message(context: HttpContext, ticket: int, message: int, etag: str) -> None:
    """Link the message, to the ticket's newest version each time that someone else was faster."""
    change: dict[str, JsonValue] = {"@op": "add", "messages": [str(message)]}
    for _ in range(_COMMENT_TRIES):
        try:
            return await patch(context, ticket, change, etag)
        except NothingDone as refusal:
            if refusal.code != "conflict":
                # Every try before this one was refused too: the whole call did nothing.
                raise NothingDone(refusal.code, refusal.message, retryable=refusal.retryable) from refusal
        etag = (await fetch(context.client, ticket)).etag
    busy = "others kept changing the ticket, and no message was added; ask again"
    raise NothingDone("conflict", busy, retryable=True)


async def messages_of_this_call(context: HttpContext) -> list[int]:
    reply = await context.client.get("msg", params={"messageid:": _message_id(context)})
    page = Reply[Page[Item]].model_validate_json(reply.content).data
    return [item.id for item in page.collection]


async def ticket_of_this_call(context: HttpContext) -> Issue | None:
    ours = await messages_of_this_call(context)
    if not ours:
        return None
    query = {"messages": ",".join(map(str, ours)), "@fields": "title"}
    reply = await context.client.get("issue", params=query)
    page = Reply[Page[Issue]].model_validate_json(reply.content).data
    return page.collection[0] if page.collection else None


def absent(context: HttpContext) -> NotFound | CannotTell:
    """Say that nothing is there; only once nothing can come any more, that there will be nothing."""
    wait = Trail.model_validate(dict(context.remembered)).until + _GRACE_SECONDS - time.time()
    if wait > 0:
        return CannotTell(f"the request may still be under way; ask again in {wait:.0f} s")
    return NotFound()


async def etag_after(client: httpx.AsyncClient, ticket: int) -> str | None:
    """Give the new version if it can be had: a write that is done must not fail for want of it."""
    try:
        reply = await client.get(f"issue/{ticket}", params={"@fields": "title"}, timeout=5)
        return Reply[_Versioned].model_validate_json(reply.content).data.etag
    except (NothingDone, httpx.HTTPError, ValidationError):
        return None


async def opened(client: httpx.AsyncClient, issue: Issue) -> Opened:
    return Opened(
        id=issue.id,
        title=issue.title or "",
        url=page_of(client, issue.id),
        etag=await etag_after(client, issue.id),
    )


async def commented(client: httpx.AsyncClient, ticket: int, message: int) -> Commented:
    return Commented(
        id=ticket,
        message_id=message,
        url=page_of(client, ticket),
        etag=await etag_after(client, ticket),
    )


async def post(
    context: HttpContext, path: str, body: dict[str, JsonValue], *, preparing: bool = False
) -> httpx.Response:
    client = context.client
    extensions = PREPARING if preparing else {}
    return await client.post(path, json=body, headers=_same_site(client), extensions=extensions)


async def patch(context: HttpContext, ticket: int, body: dict[str, JsonValue], etag: str) -> None:
    headers = {**_same_site(context.client), "If-Match": f'"{etag}"'}
    await context.client.patch(f"issue/{ticket}", json=body, headers=headers)


def _same_site(client: httpx.AsyncClient) -> dict[str, str]:
    """Give what the tracker asks of a write: signs that no page of another site sends it."""
    origin = f"{client.base_url.scheme}://{client.base_url.netloc.decode()}"
    return {"X-Requested-With": "rest", "Origin": origin, "Referer": _site(client)}


def _site(client: httpx.AsyncClient) -> str:
    return str(client.base_url).removesuffix("rest/data/")


def page_of(client: httpx.AsyncClient, ticket: int) -> str:
    return f"{_site(client)}issue{ticket}"


def _message_id(context: HttpContext) -> str:
    return f"<{context.idempotency_key}@toolgate>"


def label(link: _Link | None) -> str | None:
    return link.label if link else None


def row_of(ticket: int, issue: Issue) -> Row:
    return Row(
        id=ticket,
        title=issue.title or "",
        status=label(issue.status),
        priority=label(issue.priority),
        assigned_to=label(issue.assignedto),
        updated=issue.activity,
    )


def _message(msg: _Msg) -> Message:
    text = msg.content or ""
    return Message(
        author=label(msg.author),
        date=msg.date,
        text=text[:_TEXT_SHOWN],
        shortened=len(text) > _TEXT_SHOWN,
    )
