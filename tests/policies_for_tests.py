"""Small policies, tools and callers from which the tests of the judge are made."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import strategies as st

from bench.policies import tool as with_schema
from toolgate.adapter import Effect
from toolgate.backends.policy.casbin_judge import MODEL, CasbinPolicy
from toolgate.backends.policy.index import RuleIndex
from toolgate.backends.policy.reading import parse_policy, read_policy
from toolgate.backends.policy.text import PolicyText
from toolgate.core.call import Caller
from toolgate.core.decision import Decision, Past, Question
from toolgate.core.record import JsonObject
from toolgate.core.tool import Tool

Row = tuple[str, ...]
"""A rule without its id: seven cells, or eight with `with`."""
SHIPPED = Path(__file__).parents[1] / "policies"
NOON = datetime(2026, 11, 18, 12, tzinfo=UTC)
"""A Wednesday."""
SUNDAY = NOON + timedelta(days=4)
TENANTS = ("acme", "globex")
ROLES = ("support", "lead", "boss")
TOOLS = ("crm.read", "crm.grant", "crm.delete", "tickets.delete")
EFFECTS: tuple[Effect, ...] = ("read", "write", "destroy")
CONDITIONS = (
    "-",
    "args.amount > 5",
    "args.amount <= 10",
    "caller.subject == 'mia'",
    "size(args.text) < 3",
    'during("Mon-Fri", "09:00-17:00", "UTC")',
    'called("crm.*")',
    'count("*.delete") >= 2',
    'like(args.text, "a*")',
)
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
RUNS: tuple[tuple[Past, ...] | None, ...] = (
    None,
    (),
    (Past("crm.read", NOON),),
    (Past("tickets.delete", NOON), Past("crm.delete", NOON)),
)
OBLIGING = (
    "mask=email", "mask=email|phone; rows=5", "rows=2", "capture=digests", "rows=9; capture=metadata",
    "credential=dynamic",
)  # fmt: skip
PATTERNS = ("*", "crm.*", "*.delete", "*e*", "group", "part")
LINKS = (("lead", "support", "acme"), ("user:mia", "lead", "acme"), ("boss", "lead", "globex"))
GROUPS = (("crm.grant", "group"), ("crm.delete", "part"), ("part", "group"))


def _row(cells: tuple[str, ...], mean: str, approval: str, obliging: str) -> Row:
    """Give a rule the cells that its effect may have."""
    unless = approval if mean.endswith("deny") else "-"
    with_ = obliging if mean in {"allow", "oblige"} else "-"
    return (mean, *cells, unless, OBLIGING[0] if mean == "oblige" and with_ == "-" else with_)


whom_and_what = st.tuples(
    st.sampled_from(["*", *ROLES, "user:mia", "mia"]),
    st.sampled_from(["*", *TENANTS]),
    st.sampled_from([*PATTERNS, *TOOLS]),
    st.sampled_from(["*", *EFFECTS]),
    st.sampled_from(CONDITIONS),
)
approvals = st.sampled_from(["-", "-", "approval:boss", "approval:finance"])
obligings = st.sampled_from(["-", *OBLIGING])


def rows_that(*effects: str) -> st.SearchStrategy[Row]:
    """Draw rules with one of `effects`."""
    return st.builds(_row, whom_and_what, st.sampled_from(effects), approvals, obligings)


rows = rows_that("allow", "allow", "deny", "oblige", "shadow-allow", "shadow-deny")
policies = st.lists(rows, max_size=8)
callers = st.builds(
    Caller,
    subject=st.sampled_from(["mia", "support", "rob"]),
    issuer=st.just("test"),
    tenant=st.sampled_from(TENANTS),
    roles=st.frozensets(st.sampled_from(ROLES), max_size=2),
)
arguments = st.sampled_from(AMOUNTS)


def tool(name: str, effect: Effect = "read") -> Tool:
    """Admit a tool of which only name and effect matter."""
    return with_schema(name, effect, {})


tools = st.builds(tool, st.sampled_from(TOOLS), st.sampled_from(EFFECTS))


def caller(*roles: str, subject: str = "ann", tenant: str = "acme") -> Caller:
    return Caller(subject=subject, issuer="test", tenant=tenant, roles=frozenset(roles))


def question(
    who: Caller,
    what: Tool,
    given: JsonObject | None = None,
    *,
    at: datetime = NOON,
    run: tuple[Past, ...] | None = None,
) -> Question:
    return Question(caller=who, tool=what, arguments={} if given is None else given, at=at, run=run)


questions = st.builds(
    question, callers, tools, arguments, at=st.sampled_from([NOON, SUNDAY]), run=st.sampled_from(RUNS)
)


def cells_of(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Give the nine cells of each rule: an id, and no way to lift anything but a deny."""
    return [(f"R{number}", *_nine(row)) for number, row in enumerate(rows)]


def _nine(row: Row) -> Row:
    *cells, unless = row[:7]
    with_ = row[7] if len(row) == 8 else "-"
    return (*cells, unless if row[0].endswith("deny") else "-", with_)


def files_of(
    rows: Sequence[Row],
    roles: Sequence[tuple[str, str, str]] = LINKS,
    groups: Sequence[tuple[str, str]] = GROUPS,
) -> dict[str, str]:
    """Write a policy's files."""
    lines = {
        "rules.csv": [("p", *cells) for cells in cells_of(rows)],
        "roles.csv": [*(("g", *link) for link in roles), *(("g2", *group) for group in groups)],
    }
    texts = {
        name: "".join(f"{', '.join(map(quoted, line))}\n" for line in some) for name, some in lines.items()
    }
    return {"model.conf": MODEL, **texts}


def quoted(cell: str) -> str:
    """Write a cell, in quotes where it needs them."""
    return '"' + cell.replace('"', '""') + '"' if "," in cell or '"' in cell else cell


def text_of(
    rows: Sequence[Row],
    roles: Sequence[tuple[str, str, str]] = LINKS,
    groups: Sequence[tuple[str, str]] = GROUPS,
) -> PolicyText:
    """Make a policy as it is after reading; without any rule too, which files may not be."""
    if not rows:
        one = text_of([("deny", "*", "*", "*", "*", "-", "-")], roles, groups)
        return PolicyText(files={}, rules=(), roles=one.roles, groups=one.groups, digest="none")
    text, faults = parse_policy(files_of(rows, roles, groups))
    assert text is not None, faults
    return text


def judge(
    rows: Sequence[Row],
    roles: Sequence[tuple[str, str, str]] = LINKS,
    groups: Sequence[tuple[str, str]] = GROUPS,
) -> CasbinPolicy:
    return CasbinPolicy(text_of(rows, roles, groups))


def with_index(policy: CasbinPolicy, index: RuleIndex) -> CasbinPolicy:
    """Put another index, such as a broken one, in front of Casbin."""
    policy._index = index  # pyright: ignore[reportPrivateUsage] # nobody else may
    return policy


def shipped() -> CasbinPolicy:
    text, faults = read_policy(SHIPPED)
    assert text is not None, faults
    return CasbinPolicy(text)


def generosity(decision: Decision) -> int:
    """Order verdicts: what allows more is more."""
    return ("deny", "hold", "allow").index(decision.verdict)
