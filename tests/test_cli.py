"""The `toolgate` command, as a person or a program at a shell meets it: deployments, checks, tokens."""

import json
from pathlib import Path

import jwt
import pytest

from tests.shell import document, done, faults, really, replace, run


@pytest.fixture(autouse=True)
def here(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in the deployment's folder, on a terminal that does not break lines."""
    monkeypatch.chdir(root)
    monkeypatch.setenv("COLUMNS", "300")
    return root


# --- help


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("init",),
        ("check",),
        ("serve",),
        ("call",),
        ("token",),
        ("calls",),
        ("calls", "list"),
        ("calls", "show"),
        ("secrets",),
        ("secrets", "set"),
        ("secrets", "list"),
        ("secrets", "rotate"),
        ("secrets", "rm"),
    ],
)
def test_every_command_explains_itself(words: tuple[str, ...]) -> None:
    assert "Usage: " in done(*words, "--help")


def test_without_a_word_all_commands_are_shown() -> None:
    shown = run().output

    for command in ("init", "check", "serve", "call", "token", "calls", "secrets"):
        assert f" {command} " in shown


@pytest.mark.parametrize(
    "words", [("nothing",), ("call",), ("calls", "list", "--most", "0"), ("check", "--x")]
)
def test_a_command_that_is_used_wrongly_ends_with_2(words: tuple[str, ...]) -> None:
    assert run(*words).exit_code == 2


# --- init and check


def test_a_new_deployment_serves_at_once_and_keeps_its_keys_to_the_owner(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "new one"
    said = done("init", str(folder))

    assert f"toolgate serve --root {folder}" in said
    keys = {
        file.name: file.stat().st_mode & 0o777
        for file in (folder / "keys").iterdir()
        if file.suffix != ".json"
    }
    assert keys, "there are keys"
    assert {mode for name, mode in keys.items() if "public" not in name} == {0o600}
    assert (folder / "keys").stat().st_mode & 0o777 == 0o700
    assert (folder / "keys" / "keystore.json").stat().st_mode & 0o777 == 0o600
    assert document("check", "--root", str(folder))["ok"] is True


def test_a_new_deployment_can_be_told_as_json(tmp_path: Path) -> None:
    folder = tmp_path / "new"

    assert document("init", str(folder)) == {
        "ok": True,
        "root": str(folder),
        "settings": str(folder / "toolgate.toml"),
    }


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")

    assert "nothing in it is overwritten (name a new folder)" in faults("init", str(tmp_path))
    assert "name a new folder" in faults("init", str(tmp_path / "mine"))
    assert "name another folder" in faults("init", str(tmp_path / "mine" / "new"))
    assert (tmp_path / "mine").read_text() == "x"


def test_with_a_wrong_environment_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLGATE_PROT", "9000")

    assert "TOOLGATE_PROT: there is no such setting" in faults("init", str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_a_deployment_without_faults_is_said_to_be_in_order() -> None:
    assert "7 tools admitted; version " in done("check")
    told = document("check")
    assert (told["ok"], told["faults"], told["warnings"], told["tools"]) == (True, [], [], 7)


def test_every_fault_is_told_at_once_with_its_place_and_remedy() -> None:
    replace("registry/notes.toml", 'effect = "read"', 'effect = "look"')
    replace("policies/rules.csv", "size(args.text) <= 500", "size(args.text")
    Path("keys/keystore.key").chmod(0o644)
    said = run("check")
    told = json.loads(run("check", "--json").stdout)

    assert said.exit_code == 1
    assert said.stdout == ""
    assert "run: chmod 600 keystore.key" in said.stderr
    assert f"{len(told['faults'])} faults; nothing was started." in said.stderr
    assert told["ok"] is False
    assert {fault["file"].split("/")[-1] for fault in told["faults"]} >= {
        "notes.toml",
        "rules.csv",
        "keystore.json",
    }
    assert all(fault["place"] and fault["problem"] and fault["remedy"] for fault in told["faults"])


def test_one_fault_is_one_fault() -> None:
    Path("keys/keystore.json").unlink()

    assert "\n1 fault; nothing was started." in run("check").stderr


@pytest.mark.parametrize(
    "words", [("call", "notes.search"), ("calls", "list"), ("token",), ("secrets", "list")]
)
def test_a_folder_that_is_no_deployment_is_told(tmp_path: Path, words: tuple[str, ...]) -> None:
    told = faults(*words, "--root", str(tmp_path))

    assert "toolgate.toml" in told
    assert "there is no such file (run: toolgate init DIR, or say --root DIR)" in told


# --- token


def test_a_token_names_its_caller_and_its_audience() -> None:
    minted = document("token", "--as", "reader", "--hours", "1")
    claims = jwt.decode(minted["token"], options={"verify_signature": False})

    assert (minted["caller"], minted["expires_in"]) == ("reader", 3600)
    assert (claims["sub"], claims["aud"]) == ("rob", "http://127.0.0.1:8080/mcp")
    assert claims["exp"] - claims["iat"] == 3600
    assert done("token").count(".") == 2


def test_tokens_are_minted_in_dev_mode_only_and_with_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "there is no caller 'eve'" in faults("token", "--as", "eve")
    for file in Path("keys").glob("dev-issuer*"):
        file.unlink()
    assert "make a new deployment with toolgate init" in faults("token")

    monkeypatch.setenv("TOOLGATE_MODE", "production")
    monkeypatch.setenv("TOOLGATE_PUBLIC_URL", "https://gate.example/mcp")
    issuer = {"issuer": "https://id.example", "jwks_uri": "https://id.example/jwks", "tenant": "home"}
    monkeypatch.setenv("TOOLGATE_ISSUERS", json.dumps([issuer]))
    assert "tokens are minted here in dev mode only" in faults("token")


# --- in a process of its own


def test_a_program_finds_results_on_stdout_and_everything_else_on_stderr(root: Path) -> None:
    good = really("call", "notes.search", "--json")
    assert (good.returncode, good.stderr) == (0, "")
    assert json.loads(good.stdout)["outcome"]["kind"] == "done"

    bad = really("calls", "show", "c-1")
    assert (bad.returncode, bad.stdout) == (1, "")
    assert bad.stderr == "no call c-1 is recorded; see: toolgate calls list\n"
    as_json = really("calls", "show", "c-1", "--json")
    assert (as_json.returncode, as_json.stderr) == (1, "")
    assert json.loads(as_json.stdout)["ok"] is False


def test_a_misconfigured_deployment_ends_with_1_and_no_traceback(tmp_path: Path) -> None:
    nowhere = really("check", "--root", str(tmp_path))
    assert (nowhere.returncode, nowhere.stdout) == (1, "")
    assert "→ run: toolgate init DIR, or say --root DIR" in nowhere.stderr

    as_json = really("call", "notes.search", "--json", TOOLGATE_PORT="many")
    assert as_json.returncode == 1
    assert json.loads(as_json.stdout)["faults"][0]["place"].upper().endswith("PORT")
