"""`toolgate call`: one governed call from a shell."""

import asyncio
import json
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.text import Text

from toolgate.cli.json_option import json_object
from toolgate.cli.local import local_caller
from toolgate.cli.output import HERE, AsJson, Root, err, out, print_json
from toolgate.core.call import Call
from toolgate.core.outcome import Answer, Done, Unknown
from toolgate.core.record import JsonObject
from toolgate.main import new_call_id, now, open_house


def call(  # noqa: PLR0913, PLR0917 - the options of one command
    tool: Annotated[str, typer.Argument(help="The tool, such as notes.search.")],
    args: Annotated[str, typer.Option("--args", help="Its arguments, a JSON object.")] = "{}",
    as_: Annotated[str | None, typer.Option("--as", help="A caller of toolgate.toml.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="An idempotency key.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Run it though it looks repeated.")] = False,  # noqa: FBT002
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002
) -> None:
    """Make one governed call. Exits 0 when it was done, 1 when nothing was, 3 when nobody can tell."""
    arguments = json_object(args, "--args")
    answer = asyncio.run(_carried_out(root, tool, arguments, as_, key, again=again))
    if as_json:
        print_json(answer.model_dump(mode="json"))
    else:
        _print(answer)
    if not isinstance(answer.outcome, Done):
        raise typer.Exit(3 if isinstance(answer.outcome, Unknown) else 1)


async def _carried_out(
    root: Path, tool: str, arguments: JsonObject, name: str | None, key: str | None, *, again: bool
) -> Answer:
    async with open_house(root) as house:
        return await house.gateway.carry_out(
            Call(
                id=new_call_id(),
                caller=local_caller(root, house.settings, name),
                tool=tool,
                arguments=arguments,
                received_at=now(),
                key=key,
                key_from="none" if key is None else "meta",
                again=again,
            )
        )


def _print(answer: Answer) -> None:
    outcome = answer.outcome
    if isinstance(outcome, Done):
        out().print_json(json.dumps(outcome.value))
        style, said = "green", "already applied" if answer.replayed else "done"
    else:
        err().print(Text(outcome.detail))
        if hint := _HINTS.get(outcome.code):
            err().print(Text(hint))
        style, said = "red", f"{outcome.kind}: {outcome.code}"
    entry = "not recorded" if answer.entry is None else f"ledger entry {answer.entry}"
    err().print(Text(f"{said} ({entry}, call {answer.call_id})", style=style))


_HINTS: Final = {
    "idempotency_key_required": "Here: --key KEY",
    "duplicate_suspected": "Here: --key KEY, or --again",
}
"""Refusals speak of MCP; this is how it is said in a shell."""
