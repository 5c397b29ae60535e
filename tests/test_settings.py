"""What an operator is told about `toolgate.toml` and the environment."""

import json
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from toolgate.core.errors import Fault, Misconfigured
from toolgate.settings import Settings, read_settings, settings_digest

DEV = 'mode = "dev"\n'
ISSUER = """
[[issuers]]
issuer = "https://id.example.com"
jwks_uri = "https://id.example.com/jwks"
tenant = "acme"
"""
PRODUCTION = 'mode = "production"\npublic_url = "https://gate.example.com/mcp"\n'
CALLER = '[callers.mia]\nsubject = "mia"\ntenant = "home"\n'
NO_SUCH = "there is no such setting"
LIKE = "an address like https://gate.example.com/mcp is expected"


@pytest.fixture(autouse=True)
def _a_clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction] # autouse
    for name in [name for name in os.environ if name.upper().startswith("TOOLGATE_")]:
        monkeypatch.delenv(name)


def read(root: Path, text: str) -> Settings:
    (root / "toolgate.toml").write_text(text, "utf-8")
    return read_settings(root)


def faults_of(root: Path, text: str) -> list[Fault]:
    with pytest.raises(Misconfigured) as refused:
        read(root, text)
    assert all(fault.remedy for fault in refused.value.faults)
    return refused.value.faults


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("", "mode", "Field required"),
        ('mode = "prod"', "mode", "'dev' or 'production'"),
        (DEV + "prot = 1", "prot", NO_SUCH),
        (DEV + '_env_file = ".env"', "_env_file", NO_SUCH),
        (DEV + "_cli_parse_args = true", "_cli_parse_args", NO_SUCH),
        (DEV + "__pydantic_self__ = 1", "__pydantic_self__", NO_SUCH),
        (DEV + 'passphrase = "hunter2"', "passphrase", "a secret does not belong in this file"),
        (DEV + 'new_passphrase = "x"', "new_passphrase", "a secret does not belong in this file"),
        (DEV + "port = 70000", "port", "less than or equal to 65535"),
        (DEV + "max_body = 1", "max_body", "greater than or equal to 1024"),
        (DEV + "mode = 1\n\n", "syntax", "line 2"),
        (DEV + "port = \n\n", "syntax", "line 2"),
        (DEV + 'local_caller = "mia"', "local_caller", "there is no [callers.mia]"),
        (DEV + '[callers.mia]\nsubject = ""\ntenant = "home"', "callers.mia.subject", "at least 1"),
        (DEV + CALLER + 'role = "x"', "callers.mia.role", "Extra inputs are not permitted"),
        (DEV + CALLER.replace("tenant", "#"), "callers.mia.tenant", "Field required"),
        ('mode = "production"\npublic_url = "https://g.example/mcp"', "issuers", "no issuer is trusted"),
        ('mode = "production"\n' + ISSUER, "public_url", "nobody can tell"),
        (DEV + "port = 0", "public_url", "nobody can tell"),
        (
            PRODUCTION + ISSUER.replace("https://id.example.com/", "http://id.example.com/"),
            "issuers https://id.example.com",
            "over http",
        ),
        (DEV + ISSUER + ISSUER, "issuers", "'https://id.example.com' is there twice"),
        (DEV + ISSUER + 'jwks_file = "k"', "issuers.0", "exactly one of jwks_uri and jwks_file"),
        (DEV + ISSUER.replace("jwks_uri", "# "), "issuers.0", "exactly one of jwks_uri and jwks_file"),
        (DEV + ISSUER + 'tenant_claim = "t"', "issuers.0", "exactly one of tenant and tenant_claim"),
        (DEV + ISSUER.replace("tenant", "# "), "issuers.0", "exactly one of tenant and tenant_claim"),
        (DEV + ISSUER + 'tenants = ["a"]', "issuers.0", "say both or neither"),
        (DEV + ISSUER.replace("tenant", "tenant_claim"), "issuers.0", "say both or neither"),
        (DEV + ISSUER + 'algorithms = ["HS256"]', "issuers.0.algorithms.0", "'ES256', 'RS256' or 'EdDSA'"),
        (DEV + ISSUER + "leeway = 301", "issuers.0.leeway", "less than or equal to 300"),
        (DEV + ISSUER + 'jwks_url = "x"', "issuers.0.jwks_url", "Extra inputs are not permitted"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_with_the_place(
    tmp_path: Path, text: str, place: str, problem: str
) -> None:
    (fault,) = faults_of(tmp_path, text)

    assert (fault.file, fault.place) == ("toolgate.toml", place)
    assert problem in fault.problem
    assert "hunter2" not in str(fault)


@pytest.mark.parametrize(
    ("name", "value", "place", "problem"),
    [
        ("TOOLGATE_PROT", "1", "TOOLGATE_PROT", NO_SUCH),
        ("TOOLGATE_PORT__X", "1", "TOOLGATE_PORT__X", NO_SUCH),
        ("TOOLGATE_", "1", "TOOLGATE_", NO_SUCH),
        ("TOOLGATE_PORT", "many", "TOOLGATE_PORT", "valid integer"),
        ("TOOLGATE_MODE", "prod", "TOOLGATE_MODE", "'dev' or 'production'"),
        ("TOOLGATE_PUBLIC_URL", "gate", "TOOLGATE_PUBLIC_URL", LIKE),
        ("TOOLGATE_ISSUERS", "{", "TOOLGATE_*", 'field "issuers"'),
    ],
)
def test_a_variable_that_cannot_be_meant_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, place: str, problem: str
) -> None:
    monkeypatch.setenv(name, value)

    (fault,) = faults_of(tmp_path, DEV)

    assert (fault.file, fault.place) == ("environment", place)
    assert problem in fault.problem


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLGATE_PORT", "9000")
    monkeypatch.setenv("TOOLGATE_ALLOWED_HOSTS", '["gate"]')
    monkeypatch.setenv("TOOLGATE_CALLERS__MIA__TENANT", "work")
    settings = read(tmp_path, DEV + 'port = 8000\nhost = "0.0.0.0"\n' + CALLER)

    assert (settings.port, settings.host, settings.allowed_hosts) == (9000, "0.0.0.0", ("gate",))  # noqa: S104
    assert (settings.callers["mia"].subject, settings.callers["mia"].tenant) == ("mia", "work")


def test_other_programs_variables_are_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "9000")
    monkeypatch.setenv("MY_TOOLGATE_PORT", "9000")
    (tmp_path / ".env").write_text("TOOLGATE_PORT=9000\n", "utf-8")
    monkeypatch.chdir(tmp_path)

    assert read(tmp_path, DEV).port == 8080


def test_the_passphrase_comes_from_the_environment_and_is_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(tmp_path, DEV)
    without = settings_digest(tmp_path)
    monkeypatch.setenv("TOOLGATE_PASSPHRASE", "hunter2")
    monkeypatch.setenv("TOOLGATE_NEW_PASSPHRASE", "hunter3")
    settings = read(tmp_path, DEV)

    assert settings.passphrase is not None
    assert settings.new_passphrase is not None
    assert settings.passphrase.get_secret_value() == "hunter2"
    assert settings.new_passphrase.get_secret_value() == "hunter3"
    assert "hunter" not in f"{settings!r} {settings} {settings.model_dump_json()}"
    assert settings_digest(tmp_path) == without, "nobody can guess it from what the ledger keeps"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("https://gate.example.com/mcp", ""),
        ("https://gate.example.com", ""),
        ("http://127.0.0.1:8080/mcp", ""),
        ("http://[::1]:8080/mcp", ""),
        ("https://gate.example.com/a/b-c_d~e%20f", ""),
        ("https://gate.example.com/mcp/", "without a slash at its end"),
        ("https://gate.example.com/", "without a slash at its end"),
        ("https://gate.example.com/mcp#part", LIKE),
        ("https://gate.example.com/mcp#", LIKE),
        ("https://gate.example.com/mcp?x=1", LIKE),
        ("https://user:secret@gate.example.com/mcp", LIKE),
        ("https://gate.example.com:port/mcp", LIKE),
        (" https://gate.example.com/mcp", LIKE),
        ("https://gate.example.com/mcp\n", LIKE),
        ('https://gate.example.com/"', LIKE),
        ("https:///mcp", LIKE),
        ("ftp://gate.example.com/mcp", LIKE),
        ("HTTPS://gate.example.com/mcp", LIKE),
        ("gate.example.com/mcp", LIKE),
        ("/mcp", LIKE),
    ],
)
def test_the_public_address_is_a_canonical_uri(tmp_path: Path, url: str, problem: str) -> None:
    text = f"{DEV}public_url = {json.dumps(url)}\n"
    if not problem:
        assert read(tmp_path, text).public_url == url
        return
    (fault,) = faults_of(tmp_path, text)
    assert fault.place == "public_url"
    assert problem in fault.problem


def test_without_the_file_it_is_said_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured) as refused:
        read_settings(tmp_path)

    assert str(refused.value) == (
        f"toolgate.toml: {tmp_path}: there is no such file (run: toolgate init DIR, or say --root DIR)"
    )


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "toolgate.toml").mkdir()
    with pytest.raises(Misconfigured, match="directory"):
        read_settings(tmp_path)

    (tmp_path / "toolgate.toml").rmdir()
    (tmp_path / "toolgate.toml").write_bytes(b"mode = '\xe9'")
    with pytest.raises(Misconfigured, match="syntax"):
        read_settings(tmp_path)


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLGATE_PROT", "1")
    monkeypatch.setenv("TOOLGATE_MAX_BODY", "1")
    text = 'mode = "x"\nprot = 2\npassphrase = "hunter2"\nport = -1\n[callers.mia]\nsubject = "mia"\n'

    assert [(fault.file, fault.place) for fault in faults_of(tmp_path, text)] == [
        ("toolgate.toml", "prot"),
        ("environment", "TOOLGATE_PROT"),
        ("toolgate.toml", "passphrase"),
        ("toolgate.toml", "mode"),
        ("toolgate.toml", "port"),
        ("environment", "TOOLGATE_MAX_BODY"),
        ("toolgate.toml", "callers.mia.tenant"),
    ]


def test_parts_that_do_not_fit_each_other_are_told_at_once(tmp_path: Path) -> None:
    faults = faults_of(tmp_path, 'mode = "production"\nlocal_caller = "mia"\nprot = 1\n')

    assert [fault.place for fault in faults] == ["prot", "local_caller", "issuers", "public_url"]


def test_settings_do_not_change_once_they_are_read(tmp_path: Path) -> None:
    settings = read(tmp_path, DEV + CALLER + ISSUER)

    for record, name in (
        (settings, "port"),
        (settings.callers["mia"], "tenant"),
        (settings.issuers[0], "tenant"),
    ):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(record, name, "x")
