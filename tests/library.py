"""A library, for tests of resources and prompts: its adapter, its manifest and the rules for it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from tests.registries import unlocked
from toolgate.adapter import (
    Adapter,
    Audio,
    Content,
    Context,
    Credential,
    EmbeddedResource,
    Image,
    Message,
    Messages,
    NothingDone,
    ResourceLink,
    Sending,
    Text,
    TextOf,
)

PIXEL = b"\x89PNG\r\n\x1a\n"
LAST_BOOK = 99


class Shelf:
    """The system: it has 99 books, and does nothing."""

    marks_sending = True

    @asynccontextmanager
    async def session(self, credential: Credential | None, sending: Sending) -> AsyncGenerator["Shelf"]:
        del credential, sending
        yield self

    async def aclose(self) -> None:
        """Nothing is open."""


class Nothing(BaseModel):
    """No arguments."""


class Which(BaseModel):
    number: int = Field(ge=1, description="The book's number.")
    language: Literal["en", "de"] = "en"


class ByTitle(BaseModel):
    title: str = Field(max_length=20)
    lent: bool


class Mood(StrEnum):
    MERRY = "merry"
    MELANCHOLY = "melancholy"
    GRIM = "grim"


class Wish(BaseModel):
    mood: Mood = Field(title="Mood", description="What it should feel like.")
    about: str | None = None
    pages: int = 200
    lent_too: bool = Field(default=False, alias="lentToo")


class Year(BaseModel):
    year: int = 2026


class Prices(BaseModel):
    prices: list[int]


class Whom(BaseModel):
    name: str


class Book(BaseModel):
    number: int
    title: str
    place: str | None


class Bought(BaseModel):
    number: int


library = Adapter("library", connect=lambda _system: Shelf())


@library.operation
async def read(which: Which, _: Context[Shelf]) -> Book:
    """Read about one book."""
    if which.number > LAST_BOOK:
        raise NothingDone("not_found", "there is no such book")
    if which.number == LAST_BOOK:
        raise NothingDone("lent", "somebody has it; ask again next week", retryable=True)
    return Book(number=which.number, title=f"Book {which.number} ({which.language})", place="shelf 3")


@library.operation
async def newest(_nothing: Nothing, _: Context[Shelf]) -> Book:
    """Tell which book came last."""
    return Book(number=LAST_BOOK, title="The newest", place=None)


@library.operation
async def find(wanted: ByTitle, _: Context[Shelf]) -> Book:
    """Find a book by its title."""
    return Book(number=1, title=wanted.title, place="lent" if wanted.lent else "shelf 1")


@library.operation
async def cover(which: Which, _: Context[Shelf]) -> Content:
    """Show a book's cover."""
    address = f"library://books/{which.number}"
    return Content(
        content=(
            Image(data=PIXEL, mime_type="image/png"),
            Text(text="A plain cover."),
            Audio(data=b"RIFF", mime_type="audio/wav"),
            EmbeddedResource(resource=TextOf(uri=address, text="the book", mime_type="text/plain")),
            ResourceLink(uri=address, name="book"),
        )
    )


@library.operation
async def staff(_nothing: Nothing, _: Context[Shelf]) -> Book:
    """Tell what only members may know."""
    return Book(number=0, title="Accounts", place="safe")


@library.operation
async def prices(_nothing: Nothing, _: Context[Shelf]) -> Book:
    """Tell what a book costs."""
    return Book(number=7, title="Seven crowns", place=None)


@library.operation
async def suggest(wish: Wish, _: Context[Shelf]) -> Messages:
    """Ask for a book to read."""
    wanted = f"a {wish.mood} book of {wish.pages} pages about {wish.about or 'anything'}"
    cover_of = EmbeddedResource(resource=TextOf(uri="library://newest", text="The newest"))
    return Messages(
        messages=(
            Message(role="user", content=Text(text=f"Find me {wanted}{', lent too' * wish.lent_too}.")),
            Message(role="assistant", content=cover_of),
            Message(role="user", content=Image(data=PIXEL, mime_type="image/png")),
        )
    )


@library.operation
async def recommend(_nothing: Nothing, context: Context[Shelf]) -> Messages:
    """Recommend a book to somebody."""
    whom = context.answer("Whom to?", Whom).name
    return Messages(messages=(Message(role="user", content=Text(text=f"Recommend a book to {whom}.")),))


@library.operation
async def accounts(_year: Year, _: Context[Shelf]) -> Messages:
    """Go through the accounts, as only members may."""
    return Messages(messages=(Message(role="user", content=Text(text="Go through the accounts.")),))


@library.operation
async def tell(_prices: Prices, _: Context[Shelf]) -> Messages:
    """Tell prices."""
    return Messages(messages=(Message(role="user", content=Text(text="Tell me.")),))


@library.operation
async def burn(which: Which, _: Context[Shelf]) -> Bought:
    """Burn a book."""
    return Bought(number=which.number)


RULES = """
p, B01, allow, reader, home, library.*, read, -, -, -
p, B02, deny, reader, home, library.read, read, args.number == 13, -, -
p, B03, oblige, reader, home, library.find, read, args.title == 'secret', -, mask=place
p, B04, allow, clerk, home, library.*, read, -, -, -
p, B05, deny, reader, home, library.staff, read, -, -, -
p, B06, deny, reader, home, library.accounts, read, -, -, -
"""


def terms(name: str, **changed: str) -> str:
    """Write a tool's table; `changed` in TOML."""
    said = {
        "effect": '"read"',
        "timeout": "5",
        "duplicates": '"natural"',
        "without_key": '"allow"',
        "capture": '"full"',
        "scopes": "[]",
        "credential": '"none"',
    } | changed
    return f"[tools.{name}]\n" + "".join(f"{key} = {value}\n" for key, value in said.items())


def manifest(*tools: str) -> str:
    """Write a manifest of the library."""
    return "\n".join(['adapter = "library"', 'owner = "library@example.com"', *tools])


OFFERED = manifest(
    terms("read", resource='"library://books/{number}"', title='"A book"'),
    terms("newest", resource='"library://newest"'),
    terms("find", resource='"library://titles/{title}?lent={lent}"'),
    terms("cover", resource='"library://books/{number}/cover"'),
    terms("staff", resource='"library://staff"'),
    terms("prices", resource='"library://prices"', scopes='["prices:read"]'),
    terms("suggest", prompt="true", title='"Suggest a book"'),
    terms("recommend", prompt="true"),
    terms("accounts", prompt="true"),
)


def library_in(root: Path) -> Path:
    """Admit the library in a starter deployment, whose callers get to see it; gives `root`."""
    (root / "registry" / "library.toml").write_text(OFFERED, "utf-8")
    rules = root / "policies" / "rules.csv"
    rules.write_text(rules.read_text("utf-8") + RULES, "utf-8")
    settings = root / "toolgate.toml"
    clerk = '\n[callers.clerk]\nsubject = "cleo"\ntenant = "home"\nroles = ["clerk"]\nscopes = []\n'
    settings.write_text(settings.read_text("utf-8") + clerk, "utf-8")
    return unlocked(root)


def installed_in(site: Path) -> Path:
    """Put into `site` what makes the adapter known to whoever has this module on its path; gives `site`."""
    info = site / "library-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: library\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text(f"[toolgate.adapters]\nlibrary = {__name__}:library\n", "utf-8")
    return site
