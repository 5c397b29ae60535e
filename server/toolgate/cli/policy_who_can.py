"""`toolgate policy who-can`: who can use a tool, and on what terms."""

from typing import Annotated

import typer

from toolgate.backends.policy.access import LEVELS, Access, Known, Survey, known_people
from toolgate.cli.json_option import json_object
from toolgate.cli.output import HERE, AsJson, Root, print_json, table
from toolgate.cli.policy_parts import Named, callers_of, catalog_of, policy_called, short, tool_called
from toolgate.settings import read_settings


def who_can(
    tool: Annotated[str, typer.Argument(help="The tool.", metavar="TOOL")],
    tenant: Annotated[str | None, typer.Option(help="Only in this tenant.")] = None,
    args: Annotated[str | None, typer.Option(help="Only calls with these arguments (JSON).")] = None,
    policy: Named = None,
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """Say of every subject and role that is known: never, only if, or always."""
    settings = read_settings(root)
    text = policy_called(root, settings, policy)
    wanted = tool_called(catalog_of(root, settings), tool)
    arguments = None if args is None else json_object(args, "--args")
    if arguments is not None and (fault := wanted.input.fault_in(arguments)):
        raise typer.BadParameter(fault, param_hint="--args")
    survey = Survey(text, arguments)
    people = known_people([text], callers_of(settings), tenant)
    found = [(person, survey.access(person.caller, wanted)) for person in people]
    found.sort(key=lambda one: LEVELS.index(one[1].level), reverse=True)
    if as_json:
        print_json({"tool": wanted.name, "policy": text.digest, "who": [_said(*one) for one in found]})
        return
    title = f"Who can use {wanted.name} (policy {short(text.digest)})"
    rows = [_row(person, access) for person, access in found]
    table(title, ("who", "tenant", "can", "on what terms", "rules"), rows)


def _row(person: Known, access: Access) -> tuple[str, ...]:
    who = "anybody else" if person.name == "*" else person.name
    return who, person.caller.tenant, access.level, "; ".join(access.terms.spoken()), ", ".join(access.rules)


def _said(person: Known, access: Access) -> dict[str, object]:
    return {"who": person.name, "tenant": person.caller.tenant, **said_of(access)}


def said_of(access: Access) -> dict[str, object]:
    """Spell what somebody can do, for programs."""
    terms = access.terms
    return {
        "can": access.level,
        "allowed_if": sorted(terms.allowed_if),
        "denied_if": sorted(terms.denied_if),
        "held_if": [{"when": when, "approver": role} for when, role in sorted(terms.held_if)],
        "obligations": [{"when": when, "with": what} for when, what in sorted(terms.obligations)],
        "rules": list(access.rules),
    }
