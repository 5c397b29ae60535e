"""A gallery, for tests of results that are seen and heard, and of questions to a person."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, SecretStr

from tests.registries import unlocked
from toolgate.adapter import (
    Adapter,
    Audio,
    BlobOf,
    Content,
    Context,
    Credential,
    EmbeddedResource,
    Image,
    ResourceLink,
    Sending,
    Text,
    TextOf,
)
from toolgate.backends.keystore import Keystore

SECRET = "curator-canary-9c41"
PICTURE = bytes(range(256))


@dataclass
class Wall:
    """The system: it holds what was painted, and knows who signed in."""

    marks_sending = True
    painted: int = 0
    signed_in: str = ""

    @asynccontextmanager
    async def session(self, credential: Credential | None, sending: Sending) -> AsyncGenerator["Wall"]:
        del sending
        self.signed_in = credential.secret.get_secret_value() if credential else ""
        yield self

    async def aclose(self) -> None:
        """Nothing is open."""


class Nothing(BaseModel):
    """No arguments."""


class Size(BaseModel):
    octets: int


class Motif(BaseModel):
    motif: str


class Name(BaseModel):
    name: str


class Colours(BaseModel):
    colours: list[Literal["red", "green", "blue"]]
    varnish: bool = True


gallery = Adapter("gallery", connect=lambda _system: Wall())


@gallery.operation
async def show(_: Nothing, context: Context[Wall]) -> Content:
    """Show everything."""
    del context
    return Content(
        content=(
            Text(text="A picture"),
            Image(data=PICTURE, mime_type="image/png"),
            Audio(data=PICTURE, mime_type="audio/wav"),
            EmbeddedResource(resource=TextOf(uri="gallery://1", text="Label", mime_type="text/plain")),
            EmbeddedResource(resource=BlobOf(uri="gallery://2", blob=PICTURE)),
            ResourceLink(uri="gallery://3", name="The next room"),
        )
    )


@gallery.operation
async def tell(_: Nothing, context: Context[Wall]) -> Content:
    """Tell, in every way, who is signed in."""
    told = context.client.signed_in
    return Content(
        content=(
            Text(text=f"It is {told}."),
            Image(data=PICTURE + told.encode() + PICTURE, mime_type="image/png"),
            EmbeddedResource(resource=BlobOf(uri="gallery://x", blob=b"1" + told.encode() + PICTURE)),
            Text(text="That was it."),
        )
    )


@gallery.operation
async def enlarge(size: Size, context: Context[Wall]) -> Content:
    """Show an image of so many octets."""
    del context
    return Content(content=(Image(data=bytes(size.octets), mime_type="image/png"),))


@gallery.operation
async def paint(motif: Motif, context: Context[Wall]) -> Content:
    """Paint a picture, and ask for its name and its colours before."""
    name = context.answer("What is it called?", Name, name="name").name
    chosen = context.answer("Which colours?", Colours, name="colours")
    context.sending()
    context.client.painted += 1
    said = f"{motif.motif}, {name!r}, in {' and '.join(chosen.colours)}: picture {context.client.painted}"
    return Content(content=(Text(text=said),))


MANIFEST = """
adapter = "gallery"
owner = "gallery@example.com"

[credentials.curator]
secret = "gallery"
sign_in = "bearer"
"""
_TERMS = """
[tools.{name}]
effect = "{effect}"
timeout = 5
duplicates = "{duplicates}"
without_key = "guard"
capture = "full"
scopes = []
credential = "{credential}"
"""
_TOOLS = {
    "show": ("read", "natural", "none"),
    "enlarge": ("read", "natural", "none"),
    "tell": ("read", "natural", "curator"),
    "paint": ("write", "none", "none"),
}
RULES = """
p, G01, allow,  member, home, gallery.*,    *,    -, -, -
p, G02, allow,  child,  home, gallery.show, read, -, -, mask=data|blob
p, G03, allow,  guest,  home, gallery.show, read, -, -, rows=2
"""
CALLERS = """
[callers.child]
subject = "kim"
tenant = "home"
roles = ["child"]

[callers.guest]
subject = "gus"
tenant = "home"
roles = ["guest"]
"""


def gallery_in(root: Path) -> Path:
    """Admit the gallery in a starter deployment; gives `root`."""
    tables = (
        _TERMS.format(name=name, effect=effect, duplicates=duplicates, credential=credential)
        for name, (effect, duplicates, credential) in _TOOLS.items()
    )
    (root / "registry" / "gallery.toml").write_text(MANIFEST + "".join(tables), "utf-8")
    for name, more in (("policies/rules.csv", RULES), ("toolgate.toml", CALLERS)):
        (root / name).write_text((root / name).read_text("utf-8") + more, "utf-8")
    Keystore(root / "keys" / "keystore.json", passphrase=None, dev=True).set("gallery", SecretStr(SECRET))
    return unlocked(root)


def installed_in(site: Path) -> Path:
    """Put into `site` what makes the adapter known to whoever has this module on its path; gives `site`."""
    info = site / "gallery-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gallery\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text(f"[toolgate.adapters]\ngallery = {__name__}:gallery\n", "utf-8")
    return site
