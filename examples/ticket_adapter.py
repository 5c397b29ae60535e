"""A whole adapter, to copy: one read, one write, and what became of a write that got no answer.

Put it in a package of your own, name it among that package's entry points, and admit it in a manifest:

    [project.entry-points."toolgate.adapters"]
    tickets = "your_package.tickets:tickets"
"""

from pydantic import BaseModel, Field

from toolgate.adapter import Adapter, Found, HttpContext, NotFound

tickets = Adapter("tickets")


class TicketId(BaseModel):
    id: int = Field(ge=1, description="The ticket's number.")


class NewTicket(BaseModel):
    title: str = Field(min_length=1, max_length=200, description="What it is about, in one line.")


class Ticket(TicketId, NewTicket):
    pass


@tickets.operation
async def read(wanted: TicketId, context: HttpContext) -> Ticket:
    """Read one ticket by its number."""
    reply = await context.client.get(f"tickets/{wanted.id}")  # a 404 ends the call as `not_found` by itself
    return Ticket.model_validate_json(reply.content)


@tickets.operation
async def create(new: NewTicket, context: HttpContext) -> Ticket:
    """Create a ticket. Gives it with its number."""
    known_by = {"Idempotency-Key": context.idempotency_key}  # the same for every attempt of one call
    reply = await context.client.post("tickets", json=new.model_dump(), headers=known_by)
    return Ticket.model_validate_json(reply.content)


@tickets.look_up(create)
async def created(_new: NewTicket, context: HttpContext) -> Found[Ticket] | NotFound:
    """Find the ticket that an earlier send made."""
    reply = await context.client.get("tickets", params={"key": context.idempotency_key})
    return Found(Ticket.model_validate(reply.json()[0])) if reply.json() else NotFound()
