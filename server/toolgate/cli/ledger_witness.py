"""`toolgate ledger witness`, `witness-key`: a witness of ledgers, anywhere but where they are."""

import asyncio
import socket
from pathlib import Path
from typing import Annotated, Final

import typer
import uvloop
from rich.text import Text
from starlette.types import ASGIApp

from toolgate.backends.cosigning import WitnessKey
from toolgate.backends.witness_state import Witness, new_state
from toolgate.cli.http_server import Ending, HttpServer, config_of
from toolgate.cli.logs import log_each_request
from toolgate.cli.output import AsJson, err, print_json
from toolgate.core.errors import Fault, Misconfigured
from toolgate.core.limits import Limits
from toolgate.core.note import BadNote, VerifierKey
from toolgate.web.witness import witness_app

_HIGHEST_PORT: Final = 65_535
_LIMITS: Final = Limits(max_connections=200, head_seconds=5, body_seconds=10, write_seconds=10)
_END_SECONDS: Final = 5.0

app = typer.Typer(help="Witness ledgers.", no_args_is_help=True)
Key = Annotated[Path, typer.Option("--key", help="The file of the witness's key.", metavar="FILE")]
State = Annotated[Path, typer.Option("--state", help="The one file that it keeps.", metavar="FILE")]


@app.command("witness")
def witness(
    key: Key,
    state: State,
    log: Annotated[
        list[str],
        typer.Option("--log", help="A log's verifier key, or a file with such keys.", metavar="VKEY"),
    ],
    listen: Annotated[
        str, typer.Option("--listen", help="Where to listen; port 0 picks one.", metavar="HOST:PORT")
    ] = "127.0.0.1:8081",
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """Cosign the checkpoints of logs that only ever add to what they said before."""
    log_each_request(as_json=as_json)
    logs = [one for text in log for one in _keys(text)]
    witnessing = Witness(WitnessKey.read(key), logs, state)
    with _listening(listen) as opened:
        host, port = opened.getsockname()[:2]
        origins = ", ".join(sorted({one.name for one in logs}))
        err().print(Text(f"Witness of {origins}; listening on {host}:{port}"))
        uvloop.run(_serve(witness_app(witnessing), opened))


@app.command("witness-key")
def witness_key(
    name: Annotated[str, typer.Argument(help="The witness's name: witness.example.com/one.", metavar="NAME")],
    key: Key,
    state: State,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """Make a witness's key and its empty state, and print the key's public half: what others are given."""
    try:
        made = WitnessKey.new(name)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="NAME") from error
    try:
        new_state(state, made.verifier)
    except FileExistsError as error:
        problem = "there is a file already, and a key begins with a state of its own"
        raise Misconfigured([Fault(f"{state}", "--state", problem, "name another file")]) from error
    try:
        made.write(key)
    except FileExistsError as error:
        state.unlink()
        problem = "there is a key already, and what it has cosigned would count for nothing"
        raise Misconfigured([Fault(f"{key}", "--key", problem, "name another file")]) from error
    if as_json:
        print_json({"name": name, "vkey": f"{made.verifier}", "file": f"{key}", "state": f"{state}"})
    else:
        typer.echo(f"{made.verifier}")


async def _serve(app: ASGIApp, listening: socket.socket) -> None:
    over = asyncio.Event()
    ending = Ending(seconds=_END_SECONDS, end_streams=over.set, cut=over.set)
    await HttpServer(config_of(app, _LIMITS), ending, None).serve(sockets=[listening])


def _keys(text: str) -> list[VerifierKey]:
    """Read a verifier key, or a file with one a line."""
    lines = [text]
    if text.count("+") < 2 or Path(text).exists():  # noqa: PLR2004 - a key has two
        try:
            lines = Path(text).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise _bad_key(text, f"this is no key, and no file that can be read ({error})") from error
    try:
        keys = [VerifierKey.parse(line) for line in lines if line.strip() and not line.startswith("#")]
    except BadNote as error:
        raise _bad_key(text, str(error)) from error
    if not keys:
        raise _bad_key(text, "there is no key in it")
    return keys


def _bad_key(text: str, problem: str) -> Misconfigured:
    remedy = "give the gate's keys/ledger.vkey, as its operator handed it to you"
    return Misconfigured([Fault(text, "--log", problem, remedy)])


def _listening(where: str) -> socket.socket:
    host, colon, port = where.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > _HIGHEST_PORT:
        raise typer.BadParameter(f"{where!r} is no HOST:PORT", param_hint="--listen")
    try:
        family, *_, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=128)
    except OSError as error:
        remedy = "name an address of this machine, and a port that is free"
        raise Misconfigured([Fault(where, "--listen", f"{error}", remedy)]) from error
