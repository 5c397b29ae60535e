"""What the keeper of the policy is told about its files: every line is understood, or all is refused."""

import os
import sys
from pathlib import Path

import pytest

from toolgate.backends.policy.casbin_judge import MODEL, CasbinPolicy, model_faults
from toolgate.backends.policy.conditions import Condition
from toolgate.backends.policy.reading import DEEPEST, MOST_BYTES, read_policy
from toolgate.backends.policy.text import GroupLink, PolicyText, RoleLink
from toolgate.core.errors import Fault
from toolgate.core.obligations import Obligations

RULE = "p, R1, allow, support, acme, crm.*, read, -, -, -\n"
REFERENCE = "see docs/reference/policy.md"
LANGUAGE = "see docs/reference/conditions.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A policy of one rule."""
    (tmp_path / "model.conf").write_text(MODEL, "utf-8")
    (tmp_path / "rules.csv").write_text(RULE, "utf-8")
    return tmp_path


def read(folder: Path) -> PolicyText:
    text, faults = read_policy(folder)
    assert faults == []
    assert text is not None
    return text


def faults_of(folder: Path, rules: str) -> list[Fault]:
    """Read `rules` in place of the one rule."""
    (folder / "rules.csv").write_text(rules, "utf-8")
    text, faults = read_policy(folder)
    assert text is None, "with any fault there is no policy"
    return faults


def rule(
    head: str = "p, X1, deny, support, acme, crm.*, write", *, when: str = "-", unless: str = "-"
) -> str:
    return f"{head}, {when}, {unless}, -"


def obliging(with_: str) -> str:
    return f"p, X1, oblige, support, acme, crm.*, write, -, -, {with_}"


@pytest.mark.parametrize(
    ("line", "place", "problem", "remedy"),
    [
        ("\ufeff" + RULE, "line 1, column 1", "byte-order mark", "save it without one"),
        (RULE.replace("p,", "P,", 1), "line 1, column 1", "not 'P'", "correct it"),
        ("policy, x", "line 1, column 1", "not 'policy'", "put # before a comment"),
        (rule("p, X1, Deny, support, acme, crm.*, write"), "line 1, column 8", "'Deny'", "allow or deny"),
        (rule("p, X1, deny, support, acme, crm.*, Write"), "line 1, column 36", "'Write'", "destroy or *"),
        (rule("p, X1, deny, support, acme, crm.*, send"), "line 1, column 36", "'send'", "read, write"),
        ("p, X1, allow, support, acme, crm.*, read, -, -", "line 1, column 1", "has 9 cells, not 10", "id,"),
        (RULE.strip() + ", -", "line 1, column 1", "has 11 cells, not 10", "an empty one is written -"),
        (rule(when='"args.a == 1'), "line 1, column 1", "not proper CSV", "a quote inside it is written"),
        (rule(when='"args.a" == 1'), "line 1, column 1", "not proper CSV", 'quote a whole cell: "a, b"'),
        (rule("p, 1X, deny, support, acme, crm.*, write"), "line 1, column 4", "'1X'", REFERENCE),
        (rule("p, X1, deny, a b, acme, crm.*, write"), "line 1, column 14", "'a b'", REFERENCE),
        (rule("p, X1, deny, group:x, acme, crm.*, write"), "line 1, column 14", "'group:x'", REFERENCE),
        (rule("p, X1, deny, support, ac*, crm.*, write"), "line 1, column 23", "'ac*'", REFERENCE),
        (rule("p, X1, deny, support, acme, CRM.*, write"), "line 1, column 29", "'CRM.*'", REFERENCE),
        (rule("p, X1, deny, support, acme, , write"), "line 1, column 29", "''", REFERENCE),
        (rule(when="amount > 5"), "line 1, column 43", "unknown name amount", LANGUAGE),
        (rule(when="args.a.startswith('x')"), "line 1, column 50", "unknown function startswith", LANGUAGE),
        (rule(when="args.a >"), "line 1, column 51", "the condition: ", LANGUAGE),
        (rule(when=f"args.a == '{'x' * 1000}'"), "line 1, column 1043", "at most 1000 characters", LANGUAGE),
        (
            rule("p, X1, allow, support, acme, crm.*, write", unless="approval:boss"),
            "line 1, column 47",
            "the unless cell is 'approval:boss'",
            "everything else only -",
        ),
        (rule(unless="approval:"), "line 1, column 46", "the unless cell", "approval:ROLE"),
        (rule(unless="boss"), "line 1, column 46", "the unless cell is 'boss'", "approval:ROLE"),
        (rule().removesuffix("-") + "mask=x", "line 1, column 49", "only an allow or an oblige", "write -"),
        (obliging("-"), "line 1, column 51", "obliges to nothing", "mask=FIELD"),
        (obliging("mask:x"), "line 1, column 51", "'mask:x' would not be enforced", "mask=FIELD"),
        (obliging("label=pii"), "line 1, column 51", "'label' would not be enforced", "rows=NUMBER"),
        (obliging("rate=30/h"), "line 1, column 51", "'rate' would not be enforced", "rows=NUMBER"),
        (obliging("Mask=x"), "line 1, column 51", "'Mask' would not be enforced", "mask=FIELD"),
        (obliging("mask="), "line 1, column 51", "'' is no name of a field", "mask=FIELD"),
        (obliging("mask=a|b c"), "line 1, column 51", "'b c' is no name of a field", "mask=FIELD"),
        (obliging("rows=0"), "line 1, column 51", "rows is '0'", "rows=NUMBER"),
        (obliging("rows=1e9"), "line 1, column 51", "rows is '1e9'", "rows=NUMBER"),
        (obliging("rows=1; rows=2"), "line 1, column 51", "rows is said twice", "rows=NUMBER"),
        (obliging("capture=none"), "line 1, column 51", "capture is 'none'", "capture=metadata"),
        (obliging("credential=static"), "line 1, column 51", "credential is 'static'", "credential=dynamic"),
        (obliging("rows=1;"), "line 1, column 51", "'' would not be enforced", "mask=FIELD"),
        ("p, X1, shadow-allow, *, *, *, *, -, -, rows=1", "line 1, column 40", "in force", "write -"),
        ("p, X1, shadow-oblige, *, *, *, *, -, -, rows=1", "line 1, column 8", "'shadow-oblige'", "oblige"),
        ("g, user:a, lead", "line 1, column 1", "has 3 cells, not 4", "who, role, tenant"),
        ("g, *, lead, acme", "line 1, column 4", "never given to all", "name it"),
        ("g, user:a, *, acme", "line 1, column 12", "never given to all", "name it"),
        ("g, user:a, lead, *", "line 1, column 18", "never given to all", "name it"),
        ("g, user:a, user:b, acme", "line 1, column 12", "'user:b'", REFERENCE),
        ("g2, crm.a", "line 1, column 1", "has 2 cells, not 3", "tool, group"),
        ("g2, crm.*, group", "line 1, column 5", "'crm.*'", REFERENCE),
        ("g2, *, group", "line 1, column 5", "'*'", REFERENCE),
        ("g2, Crm.a, group", "line 1, column 5", "'Crm.a'", REFERENCE),
        ("g2, crm.a, Group", "line 1, column 12", "'Group'", REFERENCE),
    ],
)
def test_a_line_that_is_not_understood_is_told_with_its_place_and_what_to_do(
    folder: Path, line: str, place: str, problem: str, remedy: str
) -> None:
    (fault,) = faults_of(folder, line)

    assert fault.file == "policies/rules.csv"
    assert fault.place == place
    assert problem in fault.problem
    assert remedy in fault.remedy


def test_an_id_that_is_there_twice_is_told_with_the_other_place(folder: Path) -> None:
    (folder / "more.csv").write_text("# more\n" + RULE, "utf-8")

    (fault,) = faults_of(folder, RULE)

    assert str(fault) == (
        "policies/rules.csv: line 1, column 4: the id 'R1' is already used in more.csv line 2 "
        "(give it an id of its own)"
    )


def test_all_faults_of_all_files_are_told_at_once(folder: Path) -> None:
    (folder / "model.conf").unlink()
    (folder / "more.csv").write_text("x\n", "utf-8")

    faults = faults_of(folder, "p, 1, Allow, *, *, *, any, x, y, z\n" + RULE.replace("p,", "q,"))

    assert [(fault.file, fault.place) for fault in faults] == [
        ("policies/model.conf", "file"),
        ("policies/more.csv", "line 1, column 1"),
        *(("policies/rules.csv", f"line 1, column {column}") for column in (4, 7, 23, 28, 31, 34)),
        ("policies/rules.csv", "line 2, column 1"),
    ]


def test_an_odd_quote_before_a_fault_is_told_and_not_stumbled_over(folder: Path) -> None:
    faults = faults_of(folder, 'p, X"1, nope, *, acme, crm.*, any, args.a == "x, approval, with')

    assert [fault.place for fault in faults] == [
        f"line 1, column {column}" for column in (4, 9, 31, 46, 50, 60)
    ]


@pytest.mark.parametrize("name", ["rules.csv", "model.conf"])
def test_a_file_that_is_not_utf8_is_told_by_name(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"# caf\xe9\n")

    text, faults = read_policy(folder)

    assert text is None
    assert [(fault.file, fault.place) for fault in faults] == [(f"policies/{name}", "file")]


@pytest.mark.parametrize("rules", ["", "# nothing yet\n\n", "g, user:a, lead, acme\ng2, crm.a, group\n"])
def test_a_policy_without_a_rule_is_refused(folder: Path, rules: str) -> None:
    (fault,) = faults_of(folder, rules)

    assert str(fault) == "policies/rules.csv: file: there is no rule (add one; none means no)"


def test_a_folder_that_is_not_there_has_no_policy(tmp_path: Path) -> None:
    text, faults = read_policy(tmp_path / "nothing")

    assert text is None
    assert [fault.file for fault in faults] == ["policies/model.conf"]


@pytest.mark.parametrize(
    ("there", "instead"),
    [("!some(where (p.eft == deny))", "true"), ("!lifted(p.unless, r.ctx) && ", ""), ("g = ", "\ufeffg = ")],
)
def test_another_model_than_the_shipped_one_is_refused(folder: Path, there: str, instead: str) -> None:
    (folder / "model.conf").write_text(MODEL.replace(there, instead), "utf-8")

    (fault,) = model_faults(read(folder))

    assert fault.file == "policies/model.conf"
    assert "toolgate init" in fault.remedy


def test_comments_and_spaces_in_the_model_are_free(folder: Path) -> None:
    (folder / "model.conf").write_text("# ours\n\n" + MODEL.replace("\n", "  \n"), "utf-8")

    assert model_faults(read(folder)) == []


def test_casbin_installed_over_pycasbin_is_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = tmp_path / ".site" / "casbin-1.0.dist-info"
    stranger.mkdir(parents=True)
    (stranger / "METADATA").write_text("Metadata-Version: 2.1\nName: casbin\nVersion: 1.0\n", "utf-8")
    monkeypatch.setattr(sys, "path", [str(stranger.parent), *sys.path])

    (fault,) = model_faults(read(folder))

    assert "casbin is installed over pycasbin" in fault.problem


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_comments_empty_lines_and_any_line_ends_are_fine(folder: Path, end: str) -> None:
    (folder / "rules.csv").write_bytes(f"# who{end}{end}  # and what{end}{RULE.strip()}{end}".encode())

    assert [found.id for found in read(folder).rules] == ["R1"]


def test_a_quoted_cell_may_hold_commas_and_quotes_and_stand_in_a_column_of_its_own(folder: Path) -> None:
    line = 'p,\tX1, deny, support, acme, crm.*, write,\t"args.kind in [""a"", ""b""]"  , "-" , -\n'
    (folder / "rules.csv").write_text(line, "utf-8")

    (found,) = read(folder).rules

    assert found.when is not None
    assert found.when.text == 'args.kind in ["a", "b"]'
    assert found.cells[-3:] == (found.when.text, "-", "-")


def test_a_quote_inside_an_unquoted_cell_is_a_part_of_it(folder: Path) -> None:
    (folder / "rules.csv").write_text(rule(when='args.kind == "a"') + "\n", "utf-8")

    (found,) = read(folder).rules

    assert found.when is not None
    assert found.when.text == 'args.kind == "a"'


def test_further_files_join_by_name(folder: Path) -> None:
    (folder / "zebra.csv").write_text(RULE.replace("R1", "R3"), "utf-8")
    (folder / "acme.csv").write_text(
        RULE.replace("R1", "R0") + "g, lead, support, acme\ng2, crm.a, group\n", "utf-8"
    )

    text = read(folder)

    assert [found.id for found in text.rules] == ["R0", "R1", "R3"]
    assert text.roles == (RoleLink("lead", "support", "acme", "acme.csv", 2),)
    assert text.groups == (GroupLink("crm.a", "group", "acme.csv", 3),)


def test_every_change_of_a_file_is_another_version_and_reading_again_is_not(folder: Path) -> None:
    first = CasbinPolicy(read(folder)).digest
    again = CasbinPolicy(read(folder)).digest
    (folder / "rules.csv").write_text(RULE + "# a comment\n", "utf-8")

    assert first == again != read(folder).digest


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("args.t.matches(args.p)", "a pattern in quotes"),
        ("matches(args.t, args.p)", "a pattern in quotes"),
        ("args.t.matches('[a-z]{1,1000}@')", "at most 100 times"),
    ],
)
def test_a_pattern_whose_cost_a_caller_could_drive_up_is_refused(text: str, problem: str) -> None:
    assert Condition("args.t.matches('^a{2,5}$')").text
    with pytest.raises(ValueError, match=problem):
        Condition(text)


def test_obligations_are_read_whole(folder: Path) -> None:
    lines = (
        "p, O1, oblige, *, *, *, *, -, -, mask=email | phone; rows=1 ;capture=digests; credential = dynamic",
        "p, O2, allow, *, *, *, *, -, -, rows=7",
    )
    (folder / "rules.csv").write_text("\n".join(lines), "utf-8")

    first, second = read(folder).rules

    assert first.effect == "oblige"
    assert first.obligations == Obligations(frozenset({"email", "phone"}), 1, "digests", dynamic=True)
    assert second.obligations == Obligations(rows=7)


def test_a_rule_in_shadow_is_known_as_one(folder: Path) -> None:
    (folder / "rules.csv").write_text(
        RULE
        + "p, S1, shadow-deny, *, *, *, *, -, approval:boss, -\np, S2, shadow-allow, *, *, *, *, -, -, -\n",
        "utf-8",
    )

    assert [(rule.effect, rule.shadow, rule.approver) for rule in read(folder).rules] == [
        ("allow", False, None),
        ("deny", True, "boss"),
        ("allow", True, None),
    ]


@pytest.mark.parametrize("name", ["team.CSV", "rules.csv.bak", "team.txt", "team/rules.csv", "cases/a.json"])
def test_a_file_that_would_not_be_read_is_told_rather_than_skipped(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(RULE.replace("R1", "R9"), "utf-8")

    text, faults = read_policy(folder)

    assert text is None
    assert [fault.file for fault in faults] == [f"policies/{name.removesuffix('/rules.csv')}"]
    assert "is not read" in faults[0].problem


@pytest.mark.parametrize(
    "name", [".git/x.csv", ".rules.csv.swp", "rules.csv~", "README.md", "cases/README.md"]
)
def test_hidden_files_notes_and_backups_do_not_count(folder: Path, name: str) -> None:
    before = read(folder).digest
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("x", "utf-8")

    assert read(folder).digest == before


def test_cases_are_part_of_the_version(folder: Path) -> None:
    before = read(folder).digest
    (folder / "cases").mkdir()
    (folder / "cases" / "a.toml").write_text("# a case\n", "utf-8")

    assert read(folder).files["cases/a.toml"] == "# a case\n"
    assert read(folder).digest != before


def test_a_file_beyond_all_bounds_is_not_read(folder: Path) -> None:
    with (folder / "huge.csv").open("wb") as file:
        file.truncate(MOST_BYTES + 1)

    _, faults = read_policy(folder)

    assert [(fault.file, fault.problem) for fault in faults] == [("policies/huge.csv", "larger than 64 MiB")]


@pytest.mark.parametrize(
    "odd", ["\u2028", "\x85", "\x0b", "\x0c", "\u200b", "\u202e", "\ufeff", "\x00", "\u00a0"]
)
@pytest.mark.parametrize("before", ["# off", "p, D1, deny, user:m"])
def test_what_a_reader_would_not_see_is_refused_in_comments_too(folder: Path, odd: str, before: str) -> None:
    (folder / "rules.csv").write_text(f"{RULE}{before}{odd}p, D2, deny, *, *, crm.a, *, -, -, -\n", "utf-8")

    text, faults = read_policy(folder)

    assert text is None
    assert (faults[0].place, faults[0].remedy) == (f"line 2, column {len(before) + 1}", "remove it")
    assert f"U+{ord(odd):04X}" in faults[0].problem


@pytest.mark.parametrize("cells", ["-, acme", "support, -", "-x, acme"])
def test_an_empty_who_or_tenant_is_no_name(folder: Path, cells: str) -> None:
    (fault,) = faults_of(folder, f"p, X1, deny, {cells}, crm.*, write, -, -, -")

    assert "is expected" in fault.problem


@pytest.mark.parametrize(
    "rows",
    [
        ["g, a, b, acme", "g, b, a, acme"],
        ["g, a, a, acme"],
        ["g2, crm.a, crm.b", "g2, crm.b, crm.a"],
        [f"g, r{n}, r{n + 1}, acme" for n in range(DEEPEST + 1)],
    ],
)
def test_a_circle_and_a_chain_that_casbin_would_not_follow_are_refused(folder: Path, rows: list[str]) -> None:
    (folder / "roles.csv").write_text("\n".join(rows), "utf-8")

    text, faults = read_policy(folder)

    assert text is None
    assert "lead in a circle" in faults[0].problem


def test_a_long_chain_and_many_ways_to_one_role_are_fine(folder: Path) -> None:
    chain = [f"g, r{n}, r{n + 1}, acme" for n in range(DEEPEST)]
    wide = [f"g, {who}, {role}, acme" for who in "abcdefghij" for role in "klmnopqrst"]
    (folder / "roles.csv").write_text("\n".join(chain + wide), "utf-8")

    assert len(read(folder).roles) == DEEPEST + 100


def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "pipe.csv")

    _, faults = read_policy(folder)

    assert "is no plain file" in faults[0].problem


def test_a_device_is_not_read(folder: Path) -> None:
    (folder / "zero.csv").symlink_to("/dev/zero")

    _, faults = read_policy(folder)

    assert "is no plain file" in faults[0].problem


def test_a_name_that_is_not_utf8_is_told(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.csv")).write_text(RULE, "utf-8")

    _, faults = read_policy(folder)

    assert faults[0].file == "policies/caf\\udce9.csv"
