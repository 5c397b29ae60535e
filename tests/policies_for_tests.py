"""Small policies, tools and callers from which the tests of the judge are made."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from hypothesis import strategies as st

from toolgate.adapter import Effect
from toolgate.backends.casbin_policy import MODEL, CasbinPolicy
from toolgate.backends.conditions import Condition
from toolgate.backends.policy_files import PolicyText, Rule, read_policy
from toolgate.core.arguments import Schema
from toolgate.core.call import Caller
from toolgate.core.decision import Decision
from toolgate.core.record import JsonObject
from toolgate.core.tool import Terms, Tool

Row = tuple[str, str, str, str, str, str, str]
"""A rule without its id and its empty last cell."""
SHIPPED = Path(__file__).parents[1] / "policies"
TENANTS = ("acme", "globex")
ROLES = ("support", "lead", "boss")
TOOLS = ("crm.read", "crm.grant", "crm.delete", "tickets.delete")
EFFECTS: tuple[Effect, ...] = ("read", "write", "destroy")
CONDITIONS = ("-", "args.amount > 5", "args.amount <= 10", "caller.subject == 'mia'", "size(args.text) < 3")
AMOUNTS: tuple[JsonObject, ...] = (
    {},
    {"amount": 5},
    {"amount": 6},
    {"amount": 11},
    {"amount": "6"},
    {"amount": 10.5, "text": "ab"},
    {"amount": None, "text": "abc"},
    {"amount": True, "text": 7},
)

rows = st.tuples(
    st.sampled_from(["allow", "allow", "deny"]),
    st.sampled_from(["*", *ROLES, "user:mia", "mia"]),
    st.sampled_from(["*", *TENANTS]),
    st.sampled_from(["*", "crm.*", "*.delete", "group", *TOOLS]),
    st.sampled_from(["*", *EFFECTS]),
    st.sampled_from(CONDITIONS),
    st.sampled_from(["-", "-", "approval:boss", "approval:finance"]),
)
policies = st.lists(rows, max_size=8)
callers = st.builds(
    Caller,
    subject=st.sampled_from(["mia", "support", "rob"]),
    issuer=st.just("test"),
    tenant=st.sampled_from(TENANTS),
    roles=st.frozensets(st.sampled_from(ROLES), max_size=2),
)
arguments = st.sampled_from(AMOUNTS)
LINKS = (("lead", "support", "acme"), ("user:mia", "lead", "acme"), ("boss", "lead", "globex"))
GROUPS = (("crm.grant", "group"), ("crm.delete", "part"), ("part", "group"))


def tool(name: str, effect: Effect = "read") -> Tool:
    """Admit a tool of which only name and effect matter."""
    terms = Terms(
        effect=effect,
        timeout=1,
        duplicates="none",
        without_key="allow",
        capture="metadata",
        scopes=frozenset(),
        credential="none",
    )
    system, _, operation = name.partition(".")
    return Tool(
        name=name,
        wire_name=name.replace(".", "_"),
        system=system,
        operation=operation,
        title=name,
        description=name,
        terms=terms,
        input=Schema({}),
        output=Schema({}),
        credential=None,
    )


tools = st.builds(tool, st.sampled_from(TOOLS), st.sampled_from(EFFECTS))


def caller(*roles: str, subject: str = "ann", tenant: str = "acme") -> Caller:
    return Caller(subject=subject, issuer="test", tenant=tenant, roles=frozenset(roles))


def cells_of(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Give the cells of each rule: an id, and of an allow no way to lift it."""
    return [
        (f"R{number}", *row[:6], "-" if row[0] == "allow" else row[6], "-") for number, row in enumerate(rows)
    ]


def text_of(rows: Sequence[Row]) -> PolicyText:
    """Make a policy as it is after reading."""
    return PolicyText(
        model=MODEL,
        rules=tuple(_rule(cells) for cells in cells_of(rows)),
        roles=LINKS,
        groups=GROUPS,
        digest="test",
    )


def judge(rows: Sequence[Row]) -> CasbinPolicy:
    return CasbinPolicy(text_of(rows))


def shipped() -> CasbinPolicy:
    text, faults = read_policy(SHIPPED)
    assert text is not None, faults
    return CasbinPolicy(text)


def generosity(decision: Decision) -> int:
    """Order verdicts: what allows more is more."""
    return ("deny", "hold", "allow").index(decision.verdict)


def _rule(cells: tuple[str, ...]) -> Rule:
    id_, effect, who, tenant, name, action, when, unless, _ = cells
    word: Literal["allow", "deny"] = "allow" if effect == "allow" else "deny"
    return Rule(
        cells=cells,
        id=id_,
        effect=word,
        who=who,
        tenant=tenant,
        tool=name,
        action=action,
        when=None if when == "-" else Condition(when),
        approver=None if unless == "-" else unless.partition(":")[2],
        file="rules.csv",
        line=1,
    )
