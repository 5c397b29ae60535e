"""`toolgate token`: a token from the dev issuer."""

from typing import Annotated

import typer

from toolgate.backends.dev_issuer import ISSUER, mint
from toolgate.cli.local import named_caller
from toolgate.cli.output import HERE, AsJson, Root, print_json
from toolgate.core.errors import Fault, Misconfigured
from toolgate.settings import FILE, read_settings


def token(
    as_: Annotated[str | None, typer.Option("--as", help="A caller of toolgate.toml.")] = None,
    hours: Annotated[float, typer.Option(help="How long it is good.", min=0.01, max=720)] = 8,
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """Mint an access token, in dev mode only."""
    settings = read_settings(root)
    if settings.mode != "dev":
        problem = "tokens are minted here in dev mode only"
        raise Misconfigured([Fault(FILE, "mode", problem, "ask your identity provider for one")])
    name = as_ or settings.local_caller or ""
    caller = named_caller(settings, name, ISSUER)
    seconds = round(hours * 3600)
    try:
        minted = mint(root, caller, audience=settings.resource, seconds=seconds)
    except OSError as error:
        remedy = "make a new deployment with toolgate init"
        raise Misconfigured([Fault("keys", "dev-issuer.pem", str(error), remedy)]) from error
    if as_json:
        print_json({"token": minted, "caller": name, "expires_in": seconds})
    else:
        typer.echo(minted)
