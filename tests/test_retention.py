"""What was kept long enough goes by the first rule that fits; entries and proofs stay."""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from pydantic import ValidationError

from tests.running_gate import PATIENCE, running, say, wait_until
from tests.shell import document, done, faults, run
from tests.test_erasure import with_many_calls
from toolgate.backends.sqlite_files import read_only
from toolgate.core.retention import RetentionRule, first_that_fits
from toolgate.main import now
from toolgate.verifier import verify_ledger

AT_ONCE = "days = 0.0000001"


@pytest.fixture
def here(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a deployment's folder, after calls in two tenants and a refused token."""
    monkeypatch.chdir(root)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv(
        "TOOLGATE_CALLERS__OTHER",
        json.dumps({"subject": "noa", "tenant": "work", "roles": ["member"], "scopes": ["notes:write"]}),
    )
    done("call", "notes.add", "--args", '{"text": "at home"}')
    run("call", "notes.add", "--args", '{"text": "at work"}', "--as", "other")
    return root


def rules(root: Path, *said: str) -> None:
    """Let these be the rules of retention."""
    file = root / "toolgate.toml"
    before = file.read_text("utf-8").partition("\n[[retention]]")[0]
    file.write_text(before + "".join(f"\n[[retention]]\n{rule}\n" for rule in said), "utf-8")


def kept(root: Path) -> dict[str, set[str]]:
    """Give the fields of which something is kept, by tenant."""
    found: dict[str, set[str]] = {}
    with closing(read_only(root / "data" / "toolgate.db")) as connection:
        for row in connection.execute("SELECT tenant, field FROM payload JOIN ledger_entry USING (idx)"):
            found.setdefault(row["tenant"], set()).add(row["field"])
    return found


def names(root: Path) -> set[str]:
    with closing(read_only(root / "data" / "toolgate.db")) as connection:
        rows = connection.execute("SELECT value FROM pseudonym WHERE kind = 'subject'")
        return {json.loads(row["value"])[2] for row in rows}


def test_a_rule_removes_its_values_of_its_tenant_and_no_entry(here: Path) -> None:
    rules(here, f'tenant = "home"\nvalues = ["arguments"]\n{AT_ONCE}')
    assert document("ledger", "retain", "--dry-run")[0]["over"] == {"arguments": 1}
    assert kept(here)["home"] >= {"arguments", "caller"}

    assert document("ledger", "retain")["removed"] == {"arguments": 1}

    assert kept(here)["home"] == {"caller", "result"}
    assert kept(here)["work"] == {"asked"}
    entry = document("ledger", "query", "calls", "--tenant", "home")[0]["entry"]
    (told,) = document("ledger", "query", "retention")
    assert (told["rule"], told["tenant"], told["arguments"]) == (1, "home", 1)
    shown = document("ledger", "show", str(entry))
    assert [(one["what"], one["entry"]) for one in shown["gone"]] == [("arguments", told["entry"])]
    assert "it was kept long enough" in done("ledger", "show", str(entry))
    assert b'{"text":"at home"}' not in (here / "data" / "toolgate.db").read_bytes()
    assert verify_ledger(here / "data" / "toolgate.db").faults == []
    assert document("ledger", "retain")["removed"] == {}


def test_the_first_rule_that_fits_decides(here: Path) -> None:
    rules(here, 'tenant = "home"\nhold = true', f'values = ["arguments", "caller", "result"]\n{AT_ONCE}')

    done("ledger", "retain")

    assert kept(here)["home"] >= {"arguments", "caller", "result"}
    assert not kept(here).get("work", set()) & {"arguments", "caller", "result"}
    rules(here, f'values = ["arguments", "caller", "result"]\n{AT_ONCE}')
    done("ledger", "retain")
    assert "home" not in kept(here), "what was held goes when it is not held any more"


def test_who_is_held_keeps_all(here: Path) -> None:
    rules(here, 'subject = "mia"\nhold = true', AT_ONCE)

    done("ledger", "retain")

    assert kept(here)["home"] >= {"arguments", "caller", "result"}
    assert {"mia"} == names(here) & {"mia", "noa"}


def test_a_rule_may_be_of_one_kind_of_entry(here: Path) -> None:
    rules(here, f'kinds = ["outcome"]\nvalues = ["arguments", "result"]\n{AT_ONCE}')

    done("ledger", "retain")

    assert kept(here)["home"] >= {"arguments", "caller"}
    assert "result" not in kept(here)["home"]


def test_names_go_when_their_last_call_is_long_enough_ago(here: Path) -> None:
    rules(here, f'tenant = "work"\nvalues = ["names"]\n{AT_ONCE}', 'values = ["names"]\ndays = 1')

    assert document("ledger", "retain", "--dry-run")[0]["over"] == {"names": 1}
    assert document("ledger", "retain")["removed"] == {"names": 1}

    assert names(here) & {"mia", "noa"} == {"mia"}
    again = run("call", "notes.add", "--args", '{"text": "again"}', "--as", "other")
    assert again.exit_code in {0, 1}
    assert "noa" in names(here), "who comes back gets a new pseudonym"
    assert len({row["who"] for row in _asked(here, "work")}) == 2


def test_what_is_not_over_stays(here: Path) -> None:
    rules(here, "days = 1")

    assert document("ledger", "retain")["removed"] == {}
    assert kept(here)["home"] >= {"arguments", "caller", "result"}
    assert document("ledger", "query", "retention") == []


def test_without_a_rule_it_is_said_that_all_is_kept(here: Path) -> None:
    assert "there is no rule" in faults("ledger", "retain")
    assert here


def test_a_gate_that_serves_removes_what_is_over_by_itself(root: Path) -> None:
    rules(root, f'values = ["arguments", "caller"]\n{AT_ONCE}')
    with running(root, say(root, "")) as gate:
        gate.call("notes_add", text="not for long")
        wait_until(lambda: "result" in kept(root).get("home", set()), "the call is recorded")
        wait_until(lambda: kept(root)["home"] == {"result"}, "what is over is removed")
        gate.call("notes_add", text="nor this")
        wait_until(lambda: kept(root)["home"] == {"result"}, "and again")

    assert verify_ledger(root / "data" / "toolgate.db").faults == []


def test_what_is_removed_and_its_entry_are_one_transaction(here: Path) -> None:
    rules(here, f'values = ["arguments", "caller", "result"]\n{AT_ONCE}')
    with closing(sqlite3.connect(here / "data" / "toolgate.db")) as connection, connection:
        connection.execute(
            "CREATE TRIGGER no_marks BEFORE INSERT ON retention_mark BEGIN SELECT RAISE(ABORT, 'full'); END"
        )

    assert "full" in faults("ledger", "retain")

    assert kept(here)["home"] >= {"arguments", "caller", "result"}
    with closing(sqlite3.connect(here / "data" / "toolgate.db")) as connection, connection:
        connection.execute("DROP TRIGGER no_marks")
    done("ledger", "retain")
    assert "home" not in kept(here)
    assert sum(row["arguments"] or 0 for row in document("ledger", "query", "retention")) == 2


# --- interrupted


@dataclass(frozen=True)
class Left:
    """What is kept of a ledger, and what its entries say was removed."""

    values: list[tuple[Any, ...]]
    names: list[tuple[Any, ...]]
    erased: list[tuple[Any, ...]]
    reached: list[tuple[Any, ...]]
    removed: dict[str, int]

    @classmethod
    def in_(cls, root: Path) -> "Left":
        with closing(read_only(root / "data" / "toolgate.db")) as connection:

            def rows(statement: str) -> list[tuple[Any, ...]]:
                return [tuple(row) for row in connection.execute(statement)]

            removed: Counter[str] = Counter()
            for (body,) in rows("SELECT body FROM ledger_entry WHERE kind = 'retention'"):
                removed.update(json.loads(body)["removed"])
            return cls(
                rows("SELECT idx, field, salt, value FROM payload ORDER BY idx, field"),
                rows("SELECT name, kind FROM pseudonym ORDER BY name"),
                rows("SELECT name, kind FROM erased_name ORDER BY name"),
                rows("SELECT position FROM retention_mark WHERE position < 1000000 ORDER BY position"),
                dict(removed),
            )


@pytest.fixture(scope="module")
def many(starter: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Left]:
    """A ledger of some thousand calls of long ago, and what retention leaves of it when nobody kills it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("bench.ledger_built.BEGIN", now() - timedelta(days=800))
        root = with_many_calls(starter, tmp_path_factory.mktemp("many"))
    rules(
        root,
        'subject = "person001@example.com"\nhold = true',
        'kinds = ["intent"]\nvalues = ["arguments", "caller"]\ndays = 30',
        'values = ["names"]\ndays = 30',
    )
    whole = Path(shutil.copytree(root, tmp_path_factory.mktemp("whole") / "root"))
    done("ledger", "retain", "--root", str(whole))
    return root, Left.in_(whole)


_STEPS: Final = "SELECT count(*) FROM retention_run"
_NAMES: Final = "SELECT count(*) FROM erased_name"
_KILLED_AT: Final = {
    "its first step": ((_STEPS, 1),),
    "the middle": ((_STEPS, 12),),
    "the names": ((_NAMES, 1),),
    "each of these": ((_STEPS, 1), (_STEPS, 5), (_STEPS, 15), (_NAMES, 1)),
}


@pytest.mark.parametrize("moments", _KILLED_AT.values(), ids=_KILLED_AT.keys())
def test_killed_in_the_middle_it_ends_as_if_it_had_not_been(
    many: tuple[Path, Left], tmp_path: Path, moments: tuple[tuple[str, int], ...]
) -> None:
    before, whole = many
    root = Path(shutil.copytree(before, tmp_path / "root"))
    database = root / "data" / "toolgate.db"
    command = [sys.executable, "-m", "toolgate", "ledger", "retain", "--root", str(root)]
    for counted, least in moments:

        def is_there(counted: str = counted, least: int = least) -> bool:
            with suppress(sqlite3.Error), closing(read_only(database)) as connection:
                return int(connection.execute(counted).fetchone()[0]) >= least
            return False

        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as retaining:
            wait_until(is_there, counted)
            retaining.send_signal(signal.SIGKILL)
            retaining.wait(timeout=PATIENCE)

    again = document("ledger", "retain", "--root", str(root))

    assert Left.in_(root) == whole
    assert whole.removed["arguments"] > 10_000
    assert whole.removed["arguments"] > again["removed"].get("arguments", 0), (
        "it was killed after it had begun"
    )
    assert whole.removed["names"] == len(whole.erased) > 400
    assert document("ledger", "retain", "--root", str(root))["removed"] == {}
    assert verify_ledger(database).faults == []


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({}, "say either days, or hold"),
        ({"days": 1, "hold": True}, "say either days, or hold"),
        ({"days": 0}, "greater than 0"),
        ({"days": 1, "subject": "mia"}, "a subject can only be held"),
        ({"hold": True, "kinds": ("intent",)}, "a hold is of every kind"),
        ({"days": 1, "values": ("salts",)}, "values"),
        ({"days": 1, "kinds": ("erase",)}, "kinds"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(said: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        RetentionRule.model_validate(said)


def test_a_fault_in_a_rule_is_told_with_its_place(here: Path) -> None:
    rules(here, "days = 1", "days = -1")

    assert "retention.1.days" in " ".join(run("check").output.split())


@pytest.mark.parametrize(
    ("value", "tenant", "kind", "subject", "number"),
    [
        ("result", "home", "outcome", None, 2),
        ("arguments", "home", "intent", "mia", 0),
        ("arguments", "home", "intent", None, 1),
        ("arguments", "work", "intent", None, 2),
        ("caller", "home", "intent", None, 2),
        ("addresses", "", "auth_failure", None, None),
    ],
)
def test_which_rule_fits(value: Any, tenant: str, kind: str, subject: str | None, number: int | None) -> None:  # noqa: ANN401
    held = RetentionRule(tenant="home", subject="mia", hold=True)
    short = RetentionRule(tenant="home", values=("arguments",), days=1)
    long = RetentionRule(values=("arguments", "caller", "result"), days=9)

    fits: Callable[..., int | None] = first_that_fits
    assert fits([held, short, long], value, tenant=tenant, kind=kind, subject=subject) == number


def test_a_hold_decides_wherever_it_stands_and_keeps_the_name_of_whom_it_holds() -> None:
    names = RetentionRule(values=("names",), days=400)
    held = RetentionRule(tenant="home", subject="mia", values=("arguments",), hold=True)
    rules = [names, held, RetentionRule(days=1)]

    def fits(value: Any, subject: str | None) -> int | None:  # noqa: ANN401
        return first_that_fits(rules, value, tenant="home", kind="intent", subject=subject)

    assert fits("arguments", "mia") == 1
    assert fits("names", "mia") == 1, "else nobody could tell any more that she is held"
    assert fits("names", None) == 1, "a run's name may be hers"
    assert fits("names", "bob") == 0
    assert fits("result", "mia") == 2


def _asked(root: Path, tenant: str) -> list[dict[str, Any]]:
    with closing(read_only(root / "data" / "toolgate.db")) as connection:
        rows = connection.execute("SELECT who FROM ledger_entry WHERE tenant = ? AND who <> ''", (tenant,))
        return [dict(row) for row in rows]
