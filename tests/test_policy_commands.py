"""`toolgate policy check`, `test` and `fmt` as somebody at a terminal or a CI uses them."""

import json
import stat
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.shell import document, done, faults, really, run

REPO = Path(__file__).parents[1]
DENY = "p, T01, deny, user:mia, *, notes.add, *, args.text == 'x', -, -\n"


@pytest.fixture
def team(root: Path) -> Path:
    """A file of rules beside those of the starter."""
    file = root / "policies" / "team.csv"
    file.write_text(DENY, "utf-8")
    return file


def test_check_of_a_sound_policy_says_how_much_it_read(root: Path) -> None:
    assert "5 rules in 1 file" in done("policy", "check", "--root", str(root))
    assert document("policy", "check", "--root", str(root))["faults"] == []


def test_check_tells_faults_of_rules_and_of_cases_with_their_places(root: Path, team: Path) -> None:
    team.write_text(DENY.replace("notes.add", "notes.ad"), "utf-8")
    (root / "policies" / "cases" / "team.toml").write_text("[peple]\n", "utf-8")

    result = run("policy", "check", "--root", str(root))

    assert result.exit_code == 1
    assert "policies/team.csv: line 1" in result.output
    assert "no manifest admits a tool 'notes.ad'" in result.output
    assert "policies/cases/team.toml: peple" in result.output


def test_check_warns_and_with_strict_fails(root: Path, team: Path) -> None:
    team.write_text("p, T01, allow, user:nobody, home, notes.*, read, 1 < 2, -, -\n", "utf-8")

    mild = run("policy", "check", "--root", str(root))
    strict = run("policy", "check", "--root", str(root), "--strict")

    assert (mild.exit_code, strict.exit_code) == (0, 1)
    assert "names user:nobody in home" in mild.output
    warnings = document("policy", "check", "--root", str(root))["warnings"]
    assert [warning["place"] for warning in warnings][:2] == ["line 1", "line 1"]


def test_a_misspelt_tenant_is_told_by_check_and_by_activate_which_goes_on(root: Path, team: Path) -> None:
    team.write_text("p, A1, deny, *, hom, notes.add, write, -, -, -\ng, user:kim, member, hme\n", "utf-8")

    told = document("policy", "check", "--root", str(root))["warnings"]
    found = {(one["file"], one["place"], one["remedy"]) for one in told}
    activated = run("policy", "activate", "--override", "a test", "--root", str(root))

    assert ("policies/team.csv", "line 1, column 17", "write home") in found
    assert ("policies/team.csv", "line 2, column 22", "write home") in found
    assert activated.exit_code == 0
    assert "rule A1 is for the tenant hom, which no caller, issuer, role or case knows" in activated.output


def test_a_tenant_that_an_issuer_may_name_is_known(root: Path, team: Path) -> None:
    team.write_text("p, A1, deny, *, hom, notes.add, write, -, -, -\n", "utf-8")
    settings = root / "toolgate.toml"
    issuer = (
        '\n[[issuers]]\nissuer = "https://id.example"\njwks_file = "keys/id.json"\n'
        'tenant_claim = "tid"\ntenants = ["hom"]\n'
    )
    settings.write_text(settings.read_text("utf-8") + issuer, "utf-8")

    told = document("policy", "check", "--root", str(root))["warnings"]
    assert not [one for one in told if "tenant hom" in one["problem"]]


def test_check_tells_what_cannot_be_read_and_needs_no_ledger_and_no_keys(root: Path) -> None:
    for folder in ("keys", "data"):
        for file in (root / folder).iterdir():
            file.unlink()
        (root / folder).rmdir()

    assert run("policy", "check", "--root", str(root)).exit_code == 0
    assert run("policy", "test", "--root", str(root)).exit_code == 0
    assert not (root / "data").exists()
    (root / "policies" / "rules.csv").write_text("P, x\n", "utf-8")
    assert run("policy", "check", "--root", str(root)).exit_code == 1
    told = json.loads(run("policy", "check", "--root", str(root), "--json").stdout)
    assert (told["ok"], told["policy"]) == (False, None)
    assert "a line begins with p, g or g2" in faults("policy", "test", "--root", str(root))


def test_the_policy_of_another_folder_is_checked_against_this_registry(root: Path) -> None:
    result = run("policy", "check", "--root", str(root), "--policies", str(REPO / "policies"))

    assert result.exit_code == 1
    assert "no manifest admits a tool 'crm.grant_credit'" in result.output


def test_test_passes_the_starter(root: Path) -> None:
    assert done("policy", "test", "--root", str(root)) == "7 of 7 cases passed.\n"
    told = document("policy", "test", "--root", str(root))
    assert (told["ok"], told["cases"], told["passed"]) == (True, 7, 7)


def test_test_says_what_failed_and_which_rule_lacks_cases(root: Path, team: Path) -> None:
    cases = root / "policies" / "cases" / "notes.toml"
    cases.write_text(cases.read_text("utf-8").replace('expect = "hold"', 'expect = "allow"'), "utf-8")

    result = run("policy", "test", "--root", str(root))

    assert result.exit_code == 1
    assert "case 'a note is removed only after a member has agreed'" in result.output
    assert "expected: allow" in result.output
    assert "got:      hold by N04" in result.output
    assert "N03 (allow, rules.csv line 5) matches: it has no condition" in result.output
    assert "policies/team.csv: line 1: rule T01 needs a case that it decides" in result.output
    assert "6 of 7 cases passed; 1 rule without the cases needed." in result.output
    told = json.loads(run("policy", "test", "--root", str(root), "--json").stdout)
    assert [failure["line"] for failure in told["failures"]] == [52]
    assert [gap["rule"] for gap in told["uncovered"]] == ["T01"]


def test_test_counts_cases_that_cannot_be_used(root: Path) -> None:
    (root / "policies" / "cases" / "team.toml").write_text("[[case]]\nname = 'x'\n", "utf-8")

    result = run("policy", "test", "--root", str(root))

    assert result.exit_code == 1
    assert "policies/cases/team.toml: line 1, case 'x': as" in result.output
    assert "7 of 7 cases passed; 3 faults in files of cases." in result.output


def test_test_of_a_part_judges_it_alone_and_fails_where_there_is_none(root: Path, team: Path) -> None:
    assert done("policy", "test", "-k", "reader", "--root", str(root)) == "1 of 1 cases passed.\n"
    assert run("policy", "test", "-k", "no such case", "--root", str(root)).exit_code == 1


def test_test_writes_a_report_for_ci_whether_it_passes_or_not(root: Path, team: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"

    assert run("policy", "test", "--root", str(root), "--junit", str(report)).exit_code == 1
    assert ET.parse(report).getroot().get("failures") == "1"  # noqa: S314 - our own
    team.unlink()
    assert run("policy", "test", "--root", str(root), "--junit", str(report)).exit_code == 0
    assert ET.parse(report).getroot().get("failures") == "0"  # noqa: S314


def test_fmt_shows_what_it_would_change_then_changes_it_then_is_content(root: Path, team: Path) -> None:
    team.chmod(0o640)

    shown = run("policy", "fmt", "--check", "--root", str(root))
    team_before = team.read_text("utf-8")
    first = done("policy", "fmt", "--root", str(root))
    team.write_text(DENY.replace(", ", ",   "), "utf-8")
    second = document("policy", "fmt", "--root", str(root))

    assert (shown.exit_code, team_before, first) == (0, DENY, "Every file is aligned.\n")
    assert second == {"ok": True, "changed": ["team.csv"]}
    assert team.read_text("utf-8") == DENY
    assert stat.S_IMODE(team.stat().st_mode) == 0o640


def test_fmt_check_fails_with_the_difference_and_writes_nothing(root: Path, team: Path) -> None:
    team.write_text(f"# mine\n{DENY.replace(', ', ',')}", "utf-8")

    result = run("policy", "fmt", "--check", "--root", str(root))

    assert result.exit_code == 1
    assert "-p,T01,deny" in result.output
    assert "+p, T01, deny" in result.output
    assert team.read_text("utf-8") == f"# mine\n{DENY.replace(', ', ',')}"
    assert json.loads(run("policy", "fmt", "--check", "--root", str(root), "--json").stdout)["ok"] is False


def test_fmt_leaves_files_with_a_fault_alone(root: Path, team: Path) -> None:
    team.write_text("p,T01,deny\n", "utf-8")

    assert "line 1, column 1" in faults("policy", "fmt", "--root", str(root))
    assert team.read_text("utf-8") == "p,T01,deny\n"


def test_the_shipped_policy_is_sound_tested_and_aligned(root: Path) -> None:
    for file in (REPO / "registry").glob("*.toml"):
        (root / "registry" / file.name).write_text(file.read_text("utf-8"), "utf-8")
    (root / "registry" / "notes.toml").unlink()
    where = ("--root", str(root), "--policies", str(REPO / "policies"))

    assert "0 faults, 0 warnings" in done("policy", "check", "--strict", *where)
    assert "cases passed." in done("policy", "test", *where)
    assert done("policy", "fmt", "--check", *where) == "Every file is aligned.\n"


def test_a_name_that_talks_to_the_terminal_is_kept_from_it(root: Path) -> None:
    cases = root / "policies" / "cases" / "team.toml"
    cases.write_text(
        '[people]\nmia = { tenant = "home", roles = ["member"] }\n'
        '[[case]]\nname = "\\u001b[31mred"\nas = "mia"\n'
        'tool = "notes.add"\nargs = { text = "a" }\nexpect = "deny"\n',
        "utf-8",
    )

    done_ = really("policy", "test", "--root", str(root))

    assert done_.returncode == 1
    assert "\x1b" not in done_.stdout + done_.stderr
    assert "red" in done_.stderr
