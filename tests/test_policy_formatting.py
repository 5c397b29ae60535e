"""What `toolgate policy fmt` does to a policy's files: columns, and nothing that they mean."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.policies_for_tests import SHIPPED
from toolgate.backends.policy.casbin_judge import MODEL
from toolgate.backends.policy.formatting import formatted
from toolgate.backends.policy.reading import parse_policy, read_policy
from toolgate.backends.policy.text import PolicyText
from toolgate.backends.replacing import replace_file

LONG = f"args.{'long' * 20} > 1"
spaces = st.sampled_from(["", " ", "    ", "\t"])
conditions = st.sampled_from(
    ["-", "args.a > 1", '"args.a in [1, 2]"', 'args.a == "x"', '"args.a == ""x, y"""', "args.a == 'ä'", LONG]
)


@st.composite
def lines(draw: st.DrawFn) -> str:
    number = draw(st.integers(0, 10**6))
    kind = draw(st.sampled_from(["p", "p", "g", "g2", "#", ""]))
    match kind:
        case "p":
            cells = ["p", f"R{number}", "deny", "user:a", "*", "crm.*", "read", draw(conditions), "-", "-"]
        case "g":
            cells = ["g", f"user:u{number}", "role", "acme"]
        case "g2":
            cells = ["g2", f"crm.{'x' * (number % 9)}a", "group"]
        case _:
            return draw(st.sampled_from(["", "  ", "# p, id, effect", "#g, who, role, tenant", " # x, \t"]))
    return ",".join(draw(spaces) + cell + draw(spaces) for cell in cells)


def read(rules: str, **more: str) -> PolicyText:
    text, faults = parse_policy({"model.conf": MODEL, "rules.csv": rules} | more)
    assert text is not None, faults
    return text


def aligned(rules: str) -> str:
    return formatted(read(rules))["rules.csv"]


def test_columns_are_aligned_with_the_comment_that_names_them() -> None:
    assert aligned(
        "# Who may do what.\r\n"
        "# p, id, effect, who, tenant, tool, action, when, unless, with\r\n"
        "\r\n"
        "p,R1,allow,support,acme,crm.*,read,-,-,-\r\n"
        '  p, R10,deny,*,*, crm.close,*,"args.a in [1, 2]",approval:owner,-   \r\n'
        "# g, who, role, tenant\n"
        "g,support_lead,support,acme\n"
    ) == (
        "# Who may do what.\n"
        "# p, id,  effect, who,     tenant, tool,      action, when,               unless,         with\n"
        "\n"
        "p,   R1,  allow,  support, acme,   crm.*,     read,   -,                  -,              -\n"
        'p,   R10, deny,   *,       *,      crm.close, *,      "args.a in [1, 2]", approval:owner, -\n'
        "# g, who,          role,    tenant\n"
        "g,   support_lead, support, acme\n"
    )


def test_a_long_cell_moves_no_other_line() -> None:
    long, short = f"args.a == '{'x' * 80}'", "args.a > 1"

    assert aligned(f"p,R1,deny,*,*,*,*,{long},-,-\np,R2,deny,*,*,*,*,{short},-,-\n") == (
        f"p, R1, deny, *, *, *, *, {long}, -, -\np, R2, deny, *, *, *, *, {short}, -, -\n"
    )


def test_a_cell_is_in_quotes_only_where_it_must_be() -> None:
    assert (
        aligned('p, R1, "deny", *, *, *, *, "args.a > 1", -, -')
        == "p, R1, deny, *, *, *, *, args.a > 1, -, -\n"
    )
    assert aligned('p, R1, deny, *, *, *, *, args.a == "x", -, -') == (
        'p, R1, deny, *, *, *, *, "args.a == ""x""", -, -\n'
    )


def test_only_the_files_of_rows_are_given() -> None:
    text = read("p, R1, deny, *, *, *, *, -, -, -", **{"team.csv": "", "cases/a.toml": "  x"})

    assert formatted(text).keys() == {"rules.csv", "team.csv"}
    assert formatted(text)["team.csv"] == ""


def test_the_shipped_files_are_aligned() -> None:
    text, faults = read_policy(SHIPPED)
    assert text is not None, faults

    assert {name: text.files[name] for name in ("rules.csv", "roles.csv")} == formatted(text)


@given(body=st.lists(lines(), max_size=8), end=st.sampled_from(["\n", "\r\n"]))
def test_the_meaning_stays_and_a_second_time_changes_nothing(body: list[str], end: str) -> None:
    rules = end.join(["p, Z, deny, *, *, *, *, -, -, -", *body])
    before, faults = parse_policy({"model.conf": MODEL, "rules.csv": rules})
    if before is None:
        assert all("already used" in fault.problem for fault in faults)
        return
    once = formatted(before)
    after = read(once["rules.csv"])

    assert [(rule.cells, rule.line) for rule in after.rules] == [
        (rule.cells, rule.line) for rule in before.rules
    ]
    assert [link.who for link in after.roles] == [link.who for link in before.roles]
    assert [link.tool for link in after.groups] == [link.tool for link in before.groups]
    assert formatted(after) == once


def test_a_file_is_replaced_as_a_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    file, link = tmp_path / "real.csv", tmp_path / "rules.csv"
    file.write_text("old")
    file.chmod(0o640)
    link.symlink_to(file)

    replace_file(link, "new\n")

    assert (link.is_symlink(), file.read_bytes()) == (True, b"new\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["real.csv", "rules.csv"]


def test_a_file_that_cannot_be_replaced_is_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "rules.csv"
    file.write_text("old")

    with pytest.raises(UnicodeEncodeError):
        replace_file(file, "new \ud800")

    assert file.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["rules.csv"]


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "report.xml"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        replace_file(pipe, "told")
        assert os.read(reader, 100) == b"told"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
