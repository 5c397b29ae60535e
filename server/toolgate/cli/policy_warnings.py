"""What is told of a policy that is most likely not meant. It keeps no policy from being in force."""

from collections.abc import Sequence

from rich.text import Text

from toolgate.backends.policy.against_registry import warnings_against
from toolgate.backends.policy.case_files import CaseFiles
from toolgate.backends.policy.lint import lint
from toolgate.backends.policy.text import PolicyText
from toolgate.cli.output import err, print_places
from toolgate.cli.policy_parts import callers_of
from toolgate.core.errors import Fault
from toolgate.core.tool import Tool
from toolgate.settings import Settings


def warnings_of(text: PolicyText, tools: Sequence[Tool], settings: Settings, cases: CaseFiles) -> list[Fault]:
    """Give what is most likely not meant, by what registry, settings and cases know."""
    callers = [*callers_of(settings), *cases.people]
    roles = frozenset(role for caller in callers for role in caller.roles)
    warnings = warnings_against(text, tools, known_roles=roles)
    return [*warnings, *lint(text, tools, callers, tenants_of(settings))]


def tenants_of(settings: Settings) -> frozenset[str]:
    """Give the tenants in which somebody can be, by the settings."""
    issued = {tenant for issuer in settings.issuers for tenant in (issuer.tenant, *issuer.tenants) if tenant}
    return frozenset(issued | {caller.tenant for caller in callers_of(settings)})


def print_warnings(warnings: Sequence[Fault]) -> None:
    """Print them to a person, if there are any."""
    if warnings:
        err().print(Text("Most likely not meant:", style="yellow"))
        print_places(warnings)
