"""`toolgate policy explain`: why a call is answered as it is, and what would change that."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.text import Text

from toolgate.backends.policy.casbin_judge import CasbinPolicy
from toolgate.backends.policy.explaining import explain as explained
from toolgate.cli.json_option import json_object
from toolgate.cli.local import LOCAL_ISSUER, named_caller
from toolgate.cli.output import HERE, AsJson, Root, out, print_json, printable
from toolgate.cli.policy_parts import Named, callers_of, catalog_of, policy_called, tool_called
from toolgate.cli.policy_recorded import explain_recorded
from toolgate.cli.policy_said import document, fault_before, lines
from toolgate.cli.policy_what_can import listed, only_tenant
from toolgate.core.call import Caller
from toolgate.core.decision import Past, Question
from toolgate.main import now
from toolgate.settings import Settings, read_settings


@dataclass(frozen=True, kw_only=True)
class _Who:
    """What the command line says of a caller."""

    name: str | None
    subject: str | None
    tenant: str | None
    roles: str
    scopes: str


def explain(  # noqa: PLR0913, PLR0917 - the options of one command
    tool: Annotated[str | None, typer.Argument(help="The tool.", metavar="TOOL")] = None,
    args: Annotated[str, typer.Option(help="The call's arguments (JSON).")] = "{}",
    caller: Annotated[str | None, typer.Option("--as", help="A caller of toolgate.toml.")] = None,
    subject: Annotated[str | None, typer.Option(help="A subject, in place of --as.")] = None,
    tenant: Annotated[str | None, typer.Option(help="The subject's tenant.")] = None,
    roles: Annotated[str, typer.Option(help="Roles that the subject's token says: a,b.")] = "",
    scopes: Annotated[str, typer.Option(help="Scopes that the subject's token says: a,b.")] = "",
    at: Annotated[str | None, typer.Option(help="When: 2026-03-01T12:00+01:00 (else UTC).")] = None,
    run: Annotated[
        str | None, typer.Option(help="Tools that the run has called before, oldest first: a.b,c.d.")
    ] = None,
    call: Annotated[str | None, typer.Option(help="A recorded call, by its id, in place of TOOL.")] = None,
    policy: Named = None,
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """Say why a call is answered as it is, which rules mattered or did not, and what would change it."""
    settings = read_settings(root)
    if (tool is None) == (call is None):
        raise typer.BadParameter("say a tool, or a recorded call with --call", param_hint="TOOL")
    if call is not None:
        explain_recorded(root, settings, call, policy, as_json=as_json)
        return
    text = policy_called(root, settings, policy)
    who = _Who(name=caller, subject=subject, tenant=tenant, roles=roles, scopes=scopes)
    moment = now() if at is None else _moment(at)
    question = Question(
        caller=_caller(settings, who, lambda: only_tenant(text, settings)),
        tool=tool_called(catalog_of(root, settings), tool or ""),
        arguments=json_object(args, "--args"),
        at=moment,
        run=None if run is None else tuple(Past(name, moment) for name in run.split(",") if name),
    )
    judge = CasbinPolicy(text)
    given = {role for one in callers_of(settings) for role in one.roles}
    found = explained(judge, question, given)
    before = fault_before(question, judge)
    if as_json:
        print_json(document(found, before))
        return
    for line in lines(found, before):
        out().print(Text(printable(line)))


def _caller(settings: Settings, who: _Who, tenant: Callable[[], str]) -> Caller:
    if who.subject is None:
        if who.name is None and settings.local_caller is None:
            raise typer.BadParameter("say who calls: --as NAME, or --subject", param_hint="--as")
        return named_caller(settings, who.name or settings.local_caller or "")
    if who.name is not None:
        raise typer.BadParameter("say --as or --subject, not both", param_hint="--as")
    return Caller(
        subject=who.subject,
        issuer=LOCAL_ISSUER,
        tenant=who.tenant or tenant(),
        roles=listed(who.roles),
        scopes=listed(who.scopes),
    )


def _moment(text: str) -> datetime:
    try:
        said = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no time; say 2026-03-01T12:00", param_hint="--at") from error
    return (said if said.tzinfo else said.replace(tzinfo=UTC)).astimezone(UTC)
