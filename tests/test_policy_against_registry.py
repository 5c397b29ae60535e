"""A policy held against the admitted tools: what could never do what it says is told before a call."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from pydantic import BaseModel

from tests.policies_for_tests import tool
from toolgate.adapter import Effect
from toolgate.backends.policy.against_registry import faults_against, warnings_against
from toolgate.backends.policy.reading import parse_policy
from toolgate.backends.policy.text import PolicyText
from toolgate.core.arguments import Schema, closed
from toolgate.core.credential_roles import CredentialRole, FileRole, OAuthRole
from toolgate.core.errors import Fault
from toolgate.core.record import JsonObject
from toolgate.core.tool import Tool

ROLES = "g, user:ann, support, acme\ng, lead, boss, acme\n"


class Grant(BaseModel):
    amount: float
    note: str = ""


class Find(BaseModel):
    text: str
    limit: int | None = None


CUSTOMER: JsonObject = {
    "type": "object",
    "properties": {
        "id": {"type": "integer"},
        "email": {"type": "string"},
        "phone": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "tier": {"enum": ["gold", "plain"]},
        "code": {"type": "string", "pattern": "^[A-Z]+$"},
        "since": {"type": "string", "format": "date"},
        "spent": {"type": ["number", "null"]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "orders": {"type": "array", "minItems": 1},
        "parent": {"anyOf": [{"$ref": "#/$defs/Customer"}, {"type": "null"}]},
    },
}
CUSTOMERS: JsonObject = {
    "type": "object",
    "properties": {"customers": {"type": "array", "items": {"$ref": "#/$defs/Customer"}, "minItems": 2}},
    "$defs": {"Customer": CUSTOMER},
}
MAIL: JsonObject = {"type": "object", "properties": {"email": {"type": "integer"}}}


def made(name: str, effect: Effect, model: type[BaseModel], output: JsonObject | None = None) -> Tool:
    schema = Schema(closed(model.model_json_schema()))
    return replace(tool(name, effect), input=schema, output=Schema(output or {}))


STATIC = FileRole(secret="crm", sign_in="basic")
DYNAMIC = OAuthRole.model_validate(
    {
        "from": "oauth",
        "sign_in": "bearer",
        "grant": "client_credentials",
        "token_url": "https://id.example/token",
        "client": "gate",
    }
)
TOOLS = (
    made("crm.find", "read", Find, CUSTOMERS),
    made("crm.grant", "write", Grant),
    made("mail.send", "write", Find, MAIL),
)


def read(*rules: str, roles: str = ROLES) -> PolicyText:
    text, faults = parse_policy({"model.conf": "", "rules.csv": "\n".join(rules) + "\n", "roles.csv": roles})
    assert text is not None, faults
    return text


def rule(
    *,
    id_: str = "R1",
    effect: str = "allow",
    who: str = "*",
    tool: str = "*",
    action: str = "*",
    when: str = "-",
    unless: str = "-",
    with_: str = "-",
) -> str:
    return f"p, {id_}, {effect}, {who}, *, {tool}, {action}, {when}, {unless}, {with_}"


def told(faults: Sequence[Fault]) -> list[tuple[str, str, str, str]]:
    return [(fault.file, fault.place, fault.problem, fault.remedy) for fault in faults]


@pytest.mark.parametrize(
    ("line", "at", "problem", "remedy"),
    [
        (
            rule(when="called('crn.*')"),
            "'crn.*'",
            "the condition: no manifest admits a tool that 'crn.*' means",
            "correct the pattern",
        ),
        (
            rule(tool="crm.fnd"),
            "crm.fnd",
            "no manifest admits a tool 'crm.fnd', and no group is called so",
            "correct it, or remove the row; did you mean crm.find?",
        ),
        (
            rule(tool="hr.*"),
            "hr.*",
            "no manifest admits a tool that 'hr.*' means",
            "correct it, or remove the row",
        ),
        (
            rule(effect="deny", unless="approval:bos"),
            "approval:",
            "nobody has the role 'bos', so nobody could approve",
            "correct it, or give the role in roles.csv; did you mean boss?",
        ),
        (
            rule(tool="crm.grant", when="args.amont <= 50"),
            "amont",
            "the condition, for crm.grant: the tool has no argument amont",
            "correct it; did you mean amount?",
        ),
        (
            rule(tool="crm.grant", when='"args.note == ""x"" && args.amount + 1 > 2.0"'),
            "+ 1",
            "the condition, for crm.grant: + joins a number with a whole number, and CEL does not mix them",
            "write 1.0",
        ),
        (
            rule(action="write", when="args.amount <= 50"),
            "amount",
            "the condition, for mail.send: the tool has no argument amount",
            "correct it; there is limit, text",
        ),
        (
            rule(when="has(args.amont) && args.amont > 5"),
            "amont",
            "the condition, for crm.find: the tool has no argument amont",
            "correct it; there is limit, text",
        ),
        (
            rule(tool="crm.grant", when="now > 5"),
            "> 5",
            "the condition, for crm.grant: a moment and a whole number have no order",
            "correct it",
        ),
    ],
)
def test_a_rule_that_cannot_do_what_it_says_is_refused(line: str, at: str, problem: str, remedy: str) -> None:
    found = told(faults_against(read("# a comment", line), TOOLS))

    assert found[0] == ("policies/rules.csv", f"line 2, column {line.index(at) + 1}", problem, remedy)


@pytest.mark.parametrize(
    "line",
    [
        rule(),
        rule(tool="crm.*", action="write", when="args.amount <= 50"),
        rule(effect="deny", when="has(args.amount) && args.amount > 500", unless="approval:boss"),
        rule(effect="deny", tool="mail.*", when="has(args.limit) && args.limit > 5", unless="approval:lead"),
        rule(tool="crm.find", with_="mask=email|phone|spent|tags|parent; rows=2"),
        rule(tool="crm.*", with_="capture=digests"),
    ],
)
def test_a_rule_that_can_do_what_it_says_is_not(line: str) -> None:
    assert faults_against(read(line), TOOLS) == []


def test_a_group_is_not_called_like_a_tool() -> None:
    text = read(rule(tool="crm.grant"), roles="g2, crm.find, crm.grant\n")

    (fault,) = faults_against(text, TOOLS)

    assert (fault.place, fault.remedy) == ("line 1", "rename the group")


def test_groups_count_through_groups_and_their_rows_are_checked() -> None:
    groups = "g2, crm.grant, part\ng2, part, money\ng2, crm.gone, part\n"
    line = rule(tool="money", when="args.amount > 5.0 && args.x == 1")
    text = read(line, roles=groups)

    assert [(fault.file, fault.place, fault.problem) for fault in faults_against(text, TOOLS)] == [
        ("policies/roles.csv", "line 3", "no manifest admits a tool 'crm.gone', and no group is called so"),
        (
            "policies/rules.csv",
            f"line 1, column {line.index('x == 1') + 1}",
            "the condition, for crm.grant: the tool has no argument x",
        ),
    ]


@pytest.mark.parametrize(
    ("cell", "tools", "problem"),
    [
        ("mask=emial", "*", "no tool that the rule can match has a field emial in its result"),
        ("mask=email", "*", "mail.send could not answer without email: its schema does not admit null"),
        (
            "mask=tier",
            "*",
            "crm.find could not answer without tier: its schema does not admit the text '[masked]'",
        ),
        (
            "mask=code",
            "*",
            "crm.find could not answer without code: its schema does not admit the text '[masked]'",
        ),
        (
            "mask=since",
            "*",
            "crm.find could not answer without since: its schema does not admit the text '[masked]'",
        ),
        ("mask=id", "*", "crm.find could not answer without id: its schema does not admit null"),
        (
            "mask=orders",
            "*",
            "crm.find could not answer without orders: its schema does not admit an empty list",
        ),
        ("rows=1", "*", "crm.find answers with at least 2 items of customers"),
        ("rows=5", "crm.grant", "no tool that the rule can match has a list at the top of its result"),
    ],
)
def test_an_obligation_that_no_result_could_keep_is_refused(cell: str, tools: str, problem: str) -> None:
    (fault,) = faults_against(read(rule(effect="oblige", tool=tools, with_=cell)), TOOLS)

    assert fault.problem == problem
    assert fault.place.startswith("line 1, column ")


@pytest.mark.parametrize(
    ("roles", "problem"),
    [
        ((None, None), "no tool that the rule can match signs in with a credential"),
        (
            (None, STATIC),
            "each tool that the rule can match signs in with a static credential: it would only be refused",
        ),
        ((STATIC, DYNAMIC), None),
        ((None, DYNAMIC), None),
    ],
)
def test_a_rule_that_asks_for_dynamic_credentials_needs_a_tool_that_has_one(
    roles: Sequence[CredentialRole | None], problem: str | None
) -> None:
    tools = [replace(tool, credential=role) for tool, role in zip(TOOLS, roles, strict=False)]
    found = faults_against(read(rule(effect="oblige", with_="credential=dynamic")), tools)

    assert [fault.problem for fault in found] == ([problem] if problem else [])


def test_the_shape_of_a_result_may_be_open() -> None:
    anything = made("crm.find", "read", Find, {})

    (fault,) = faults_against(read(rule(with_="mask=email")), [anything])

    assert "no tool" in fault.problem


@pytest.mark.parametrize(
    ("line", "at", "problem", "remedy"),
    [
        (
            rule(who="suport"),
            "suport",
            "no row of roles.csv names the role 'suport'",
            "correct it, unless tokens carry it; did you mean support?",
        ),
        (
            rule(tool="crm.find", action="destroy"),
            "destroy",
            "no tool that the rule names can destroy, so it never matches",
            "what they do is: read",
        ),
        (
            rule(effect="deny", tool="crm.grant", when="args.note == 'x'"),
            "note",
            "the condition, for crm.grant: args.note may be missing, and then the rule bites",
            "write has(args.note) && ..., or leave it so if it shall bite where args.note is missing",
        ),
    ],
)
def test_what_may_not_be_meant_is_warned_of_and_not_refused(
    line: str, at: str, problem: str, remedy: str
) -> None:
    text, place = read(line), f"line 1, column {line.index(at) + 1}"

    assert told(warnings_against(text, TOOLS)) == [("policies/rules.csv", place, problem, remedy)]
    assert faults_against(text, TOOLS) == []


@pytest.mark.parametrize(
    "line",
    [
        rule(who="support"),
        rule(who="user:eve"),
        rule(who="token_role"),
        rule(tool="crm.grant", when="args.note == 'x'"),
        rule(effect="deny", tool="crm.grant", when="has(args.note) && args.note == 'x'"),
        rule(effect="deny", unless="approval:token_role"),
    ],
)
def test_what_is_meant_is_not_warned_of(line: str) -> None:
    text = read(line)

    assert warnings_against(text, TOOLS, known_roles={"token_role"}) == []
    assert faults_against(text, TOOLS, known_roles={"token_role"}) == []


def test_conditions_that_differ_only_in_their_values_are_told_apart_by_their_places() -> None:
    lines = [
        rule(id_=f"R{number}", tool="crm.grant", when=f"args.note == '{'x' * number}' && args.x == 1")
        for number in (1, 5)
    ]

    columns = [fault.place.split()[-1] for fault in faults_against(read(*lines), TOOLS)]

    assert int(columns[1]) - int(columns[0]) == 4


def test_a_rule_in_a_file_that_is_not_there_any_more_is_still_told() -> None:
    line = rule(tool="crm.grant", when="args.x == 1")
    text = read(line)
    lost = PolicyText(files={}, rules=text.rules, roles=(), groups=(), digest="")

    assert [fault.place for fault in faults_against(lost, TOOLS)] == [
        f"line 1, column {line.index('x ==') + 1}"
    ]
