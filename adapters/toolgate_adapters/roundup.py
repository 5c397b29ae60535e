"""Tickets in a Roundup issue tracker, over its REST interface; `base_url` ends in `/rest/data/`.

A write begins with a message of its own, whose message id holds the call's idempotency key. No page of
the tracker shows it until a ticket refers to it, so making it changes nothing; once one does, the key finds
the ticket. A new ticket is sent to a one-shot link besides: the tracker takes each such link once.
"""

import time
from typing import Final

from pydantic import JsonValue

from toolgate.adapter import Adapter, CannotTell, Found, HttpContext, NotFound, NothingDone, OutcomeUnknown
from toolgate_adapters.roundup_rest import (
    LINK_SECONDS,
    NO_TICKET,
    Issue,
    Item,
    Page,
    Query,
    Reply,
    Trail,
    absent,
    add_message,
    commented,
    etag_after,
    explained,
    fetch,
    ids_of,
    label,
    make_message,
    messages_of,
    messages_of_this_call,
    one_shot_link,
    opened,
    page_of,
    patch,
    post,
    row_of,
    ticket_of_this_call,
    user_id,
)
from toolgate_adapters.roundup_tickets import (
    Change,
    Comment,
    Commented,
    NewTicket,
    Opened,
    Rows,
    Ticket,
    Wanted,
    Which,
    Written,
)

_MESSAGES_SHOWN: Final = 20

roundup = Adapter("roundup")


@roundup.operation
async def search(wanted: Wanted, context: HttpContext) -> Rows:
    """Find tickets by words in their title, status, priority or assignee, last changed first.

    Gives no messages: read a ticket for those. A name that does not exist is answered with those that do.
    """
    client = context.client
    query: Query = [("title", word) for word in wanted.text.split()]
    query += (await ids_of(client, status=wanted.status, priority=wanted.priority)).items()
    if wanted.assigned_to is not None:
        query.append(("assignedto", await user_id(client, wanted.assigned_to)))
    query += [("@sort", "-activity,-id"), ("@page_size", str(wanted.limit)), ("@verbose", "2")]
    query.append(("@fields", "title,status,priority,assignedto,activity"))
    reply = await client.get("issue", params=query)
    page = Reply[Page[Issue]].model_validate_json(reply.content).data
    return Rows(tickets=[row_of(issue.id, issue) for issue in page.collection], total=page.total)


@roundup.operation
async def read(which: Which, context: HttpContext) -> Ticket:
    """Read one ticket: its fields, its latest messages, and the etag that `change` needs."""
    found = await fetch(context.client, which.id)
    issue = found.attributes
    ids = sorted(message.id for message in issue.messages)
    shown = ids[-_MESSAGES_SHOWN:]
    return Ticket(
        **row_of(which.id, issue).model_dump(),
        reporter=label(issue.creator),
        created=issue.creation,
        url=page_of(context.client, which.id),
        etag=found.etag,
        messages=await messages_of(context.client, shown),
        earlier_messages=len(ids) - len(shown),
    )


@roundup.operation
async def create(new: NewTicket, context: HttpContext) -> Opened:
    """Open a new ticket. Search first: the problem may have a ticket already, which `comment` adds to."""
    fields = await ids_of(context.client, priority=new.priority)
    trail = Trail.model_validate(dict(context.remembered))
    kept = time.time() < trail.until
    if not kept:
        if trail.message and (earlier := await ticket_of_this_call(context)):
            return await opened(context.client, earlier)
        message = trail.message or await make_message(context, new.description)
        trail = await one_shot_link(context, message)
        await context.remember(trail.model_dump())
    body: dict[str, JsonValue] = {"title": new.title, "messages": [str(trail.message)], **fields}
    try:
        reply = await post(context, f"issue/@poe/{trail.token}", body)
    except NothingDone as refusal:
        if not kept or refusal.code != "upstream_refused":
            raise
        # The link is spent: an earlier attempt reached the tracker after all.
        if earlier := await ticket_of_this_call(context):
            return await opened(context.client, earlier)
        why = "the ticket's one-shot link was used before, and no ticket is to be seen"
        raise OutcomeUnknown(why) from refusal
    made = Reply[Item].model_validate_json(reply.content).data
    return await opened(context.client, Issue(id=made.id, title=new.title))


@roundup.look_up(create)
async def find_created(_new: NewTicket, context: HttpContext) -> Found[Opened] | NotFound | CannotTell:
    """Find the ticket that has this call's message. One that was retired meanwhile is not seen."""
    found = await ticket_of_this_call(context)
    return Found(await opened(context.client, found)) if found else absent(context)


@roundup.operation
async def change(wanted: Change, context: HttpContext) -> Written:
    """Change a ticket's title, status or priority.

    Read it first: only the version that you have seen is changed. If someone changed it since, nothing
    happens, and the answer is `conflict`: read it again, and decide again.
    """
    fields = await ids_of(context.client, status=wanted.status, priority=wanted.priority)
    if wanted.title is not None:
        fields["title"] = wanted.title
    if not fields:
        raise NothingDone("bad_arguments", "give a title, a status or a priority to change")
    again = "the ticket was changed since you read it, and is left as it is; read it again"
    with explained(conflict=again, not_found=NO_TICKET):
        await patch(context, wanted.id, dict(fields), wanted.etag)
    return Written(
        id=wanted.id,
        url=page_of(context.client, wanted.id),
        etag=await etag_after(context.client, wanted.id),
    )


@roundup.operation
async def comment(new: Comment, context: HttpContext) -> Commented:
    """Add a message to a ticket. It cannot be taken back; the tracker may mail it to those who follow.

    The tracker may set an unread or resolved ticket to chatting by itself.
    """
    trail = Trail.model_validate(dict(context.remembered))
    ticket = await fetch(context.client, new.id)
    message = trail.message or await make_message(context, new.text)
    until = time.time() + LINK_SECONDS
    await context.remember(Trail(message=message, until=until).model_dump())
    if message not in {known.id for known in ticket.attributes.messages}:
        await add_message(context, new.id, message, ticket.etag)
    return await commented(context.client, new.id, message)


@roundup.look_up(comment)
async def find_comment(new: Comment, context: HttpContext) -> Found[Commented] | NotFound | CannotTell:
    """Find this call's message on the ticket."""
    ours = await messages_of_this_call(context)
    on_ticket = {known.id for known in (await fetch(context.client, new.id)).attributes.messages}
    for message in ours:
        if message in on_ticket:
            return Found(await commented(context.client, new.id, message))
    return absent(context)
