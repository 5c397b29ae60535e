"""`toolgate policy what-can`: which tools somebody can use, and on what terms."""

from collections.abc import Iterable
from typing import Annotated

import typer

from toolgate.backends.policy.access import LEVELS, Access, Survey, caller_called
from toolgate.backends.policy.text import PolicyText
from toolgate.cli.output import HERE, AsJson, Root, print_json, table
from toolgate.cli.policy_parts import Named, callers_of, catalog_of, policy_called, short
from toolgate.cli.policy_who_can import said_of
from toolgate.core.call import Caller
from toolgate.settings import Settings, read_settings


def what_can(
    subject: Annotated[str, typer.Argument(help="A subject, or a role as role:NAME.", metavar="SUBJECT")],
    tenant: Annotated[
        str | None, typer.Option(help="In which tenant; needed where there are several.")
    ] = None,
    roles: Annotated[str, typer.Option(help="Roles that its token says: a,b.")] = "",
    policy: Named = None,
    root: Root = HERE,
    as_json: AsJson = False,  # noqa: FBT002 - a command's flag
) -> None:
    """Say of every tool whether a subject can use it: never, only if, or always."""
    settings = read_settings(root)
    text = policy_called(root, settings, policy)
    caller = _caller(text, settings, subject, tenant, listed(roles))
    survey, tools = Survey(text), catalog_of(root, settings).tools
    found = [(tool.name, survey.access(caller, tool)) for tool in tools]
    found.sort(key=lambda one: (-LEVELS.index(one[1].level), one[0]))
    names = sorted(survey.policy.roles.of(caller) - {"user:"})
    if as_json:
        tools_said = [{"tool": name, **said_of(access)} for name, access in found]
        print_json({"who": names, "tenant": caller.tenant, "policy": text.digest, "tools": tools_said})
        return
    title = f"What {subject} can use in {caller.tenant}, as {', '.join(names)} (policy {short(text.digest)})"
    table(title, ("tool", "can", "on what terms", "rules"), [_row(*one) for one in found])


def listed(names: str) -> frozenset[str]:
    """Read names with commas between them."""
    return frozenset(name.strip() for name in names.split(",") if name.strip())


def _caller(
    text: PolicyText, settings: Settings, subject: str, tenant: str | None, roles: Iterable[str]
) -> Caller:
    """Give the caller whom the settings know by this subject, or one with these roles alone."""
    name = subject.removeprefix("role:") if subject.startswith("role:") else f"user:{subject}"
    known = [one for one in callers_of(settings) if name == f"user:{one.subject}"]
    known = [one for one in known if tenant in {None, one.tenant}]
    if len(known) == 1:
        return known[0].model_copy(update={"roles": known[0].roles | frozenset(roles)})
    return caller_called(name, tenant or only_tenant(text, settings), roles)


def only_tenant(text: PolicyText, settings: Settings) -> str:
    """Give the one tenant that is known.

    Raises:
        BadParameter: there are several.
    """
    tenants = {rule.tenant for rule in text.rules} | {link.tenant for link in text.roles}
    tenants |= {caller.tenant for caller in callers_of(settings)}
    tenants -= {"*"}
    if len(tenants) != 1:
        raise typer.BadParameter(f"say one of: {', '.join(sorted(tenants))}", param_hint="--tenant")
    return tenants.pop()


def _row(name: str, access: Access) -> tuple[str, ...]:
    return name, access.level, "; ".join(access.terms.spoken()), ", ".join(access.rules)
