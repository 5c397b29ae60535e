"""The embedded keystore: what opens it, what does not, and what can be read of it."""

import json
import subprocess
import sys
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.backends.fail import Keyring as NoKeyring
from keyring.errors import KeyringError
from pydantic import SecretStr

from toolgate.backends.keystore import Keystore, KeystoreVault
from toolgate.core.arguments import Schema
from toolgate.core.call import Call, Caller
from toolgate.core.errors import CredentialUnavailable
from toolgate.core.tool import CredentialRole, Terms, Tool

CANARY = "canary-3f9c17"
PASSPHRASE = SecretStr("correct horse battery staple")


class MemoryKeyring(KeyringBackend):
    """An operating system's keyring, as far as we see it."""

    priority: ClassVar[float] = -2  # pyright: ignore[reportIncompatibleVariableOverride]
    """So that no other test finds it by itself."""

    def __init__(self, priority: float = 5) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        vars(self)["priority"] = priority
        self.kept: dict[tuple[str, str], str] = {}
        self.locked = False

    def get_password(self, service: str, username: str) -> str | None:
        if self.locked:
            raise KeyringError("locked")
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        if self.locked:
            raise KeyringError("locked")
        self.kept[service, username] = password


@pytest.fixture(autouse=True)
def no_keyring() -> Generator[None]:
    """A headless machine, unless a test says otherwise."""
    before = keyring.get_keyring()
    keyring.set_keyring(NoKeyring())  # type: ignore[no-untyped-call]
    yield
    keyring.set_keyring(before)


@pytest.fixture
def ring() -> MemoryKeyring:
    found = MemoryKeyring()
    keyring.set_keyring(found)
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keystore.json"


@pytest.fixture
def keystore(path: Path) -> Keystore:
    """One whose key is in a file, which is quick to open."""
    Keystore.create(path, passphrase=None, dev=True)
    return in_dev(path)


def in_dev(path: Path) -> Keystore:
    return Keystore(path, passphrase=None, dev=True)


def locked(path: Path, *, passphrase: SecretStr | None = None, dev: bool = True) -> str:
    """Try to open the keystore, and say why it stays shut."""
    with pytest.raises(CredentialUnavailable) as refused:
        Keystore(path, passphrase=passphrase, dev=dev)
    assert refused.value.code == "keystore_locked"
    assert not refused.value.retryable
    return str(refused.value)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_secret_comes_back_as_it_was_put_in(keystore: Keystore, path: Path) -> None:
    secret = f"{CANARY}:ünï-\n-code"
    keystore.set("crm", SecretStr(secret))
    keystore.set("a-first", SecretStr("other"))

    assert keystore.names() == ["a-first", "crm"]
    assert keystore.get("crm").get_secret_value() == secret
    assert in_dev(path).get("crm").get_secret_value() == secret


def test_setting_replaces_and_removing_removes(keystore: Keystore) -> None:
    keystore.set("crm", SecretStr("old"))
    keystore.set("crm", SecretStr("new"))
    assert keystore.get("crm").get_secret_value() == "new"

    keystore.remove("crm")
    assert keystore.names() == []


def test_an_entry_that_is_not_there_is_told_with_the_remedy(keystore: Keystore) -> None:
    for ask in (keystore.get, keystore.remove):
        with pytest.raises(CredentialUnavailable, match="add it with: toolgate secrets set crm") as refused:
            ask("crm")
        assert refused.value.code == "no_credential"


def test_no_secret_is_in_a_file_or_in_a_repr(keystore: Keystore, path: Path) -> None:
    keystore.set("crm", SecretStr(CANARY))

    for file in path.parent.iterdir():
        assert CANARY.encode() not in file.read_bytes()
        assert file.stat().st_mode & 0o777 == 0o600, f"{file.name} is the owner's alone"
    assert CANARY not in repr(keystore) + repr(vars(keystore)) + repr(keystore.get("crm"))


def test_what_another_process_changes_is_seen(keystore: Keystore, path: Path) -> None:
    keystore.set("crm", SecretStr("old"))
    change = """
import pathlib, sys
from pydantic import SecretStr
from toolgate.backends.keystore import Keystore
keystore = Keystore(pathlib.Path(sys.argv[1]), passphrase=None, dev=True)
keystore.set("crm", SecretStr("new"))
keystore.set("mail", SecretStr("more"))
"""
    subprocess.run([sys.executable, "-c", change, str(path)], check=True)

    assert keystore.get("crm").get_secret_value() == "new"
    keystore.remove("crm")
    assert in_dev(path).names() == ["mail"], "and is not lost when this one writes"


def test_a_keystore_that_goes_away_or_is_replaced_lends_nothing_more(
    keystore: Keystore, path: Path, tmp_path: Path
) -> None:
    keystore.set("crm", SecretStr("x"))
    other = tmp_path / "other" / "keystore.json"
    other.parent.mkdir()
    Keystore.create(other, passphrase=None, dev=True)
    in_dev(other).set("crm", SecretStr("y"))

    path.unlink()
    with pytest.raises(CredentialUnavailable, match="cannot be read as a keystore"):
        keystore.get("crm")
    other.replace(path)
    for _ in range(2):
        with pytest.raises(CredentialUnavailable, match="the keystore does not open with this key"):
            keystore.set("mail", SecretStr("z"))


def test_a_folder_that_cannot_be_written_is_told(keystore: Keystore, path: Path) -> None:
    elsewhere = path.rename(path.with_name("moved.json"))
    path.mkdir()
    (path / "in the way").touch()

    with pytest.raises(CredentialUnavailable, match=r"keystore\.json cannot be written"):
        Keystore.create(path, passphrase=PASSPHRASE, dev=False)
    assert in_dev(elsewhere).names() == []


@pytest.mark.anyio
@pytest.mark.parametrize("role", [CredentialRole(secret="crm", sign_in="bearer"), None])
async def test_a_call_is_lent_the_secret_of_its_tools_role_and_no_other(
    keystore: Keystore, role: CredentialRole | None
) -> None:
    keystore.set("crm", SecretStr(CANARY))
    keystore.set("mail", SecretStr("other"))
    terms = Terms(
        effect="read", timeout=1, duplicates="natural", without_key="allow", capture="full",
        scopes=frozenset(), credential="role",
    )  # fmt: skip
    tool = Tool(
        name="crm.find", wire_name="crm_find", system="crm", operation="find", title="", description="",
        terms=terms, input=Schema({}), output=Schema({}), credential=role,
    )  # fmt: skip
    caller = Caller(subject="mia", issuer="test", tenant="home")
    call = Call(id="c1", caller=caller, tool=tool.name, arguments={}, received_at=datetime.now(UTC))

    async with KeystoreVault(keystore).borrow(tool, call) as lease:
        assert (lease.secret.get_secret_value() if lease else None) == (CANARY if role else None)
        assert CANARY not in repr(lease)


# --- tampering


def test_swapped_entries_are_refused(keystore: Keystore, path: Path) -> None:
    keystore.set("mail", SecretStr("one"))
    keystore.set("payroll", SecretStr("two"))
    entries = json.loads(path.read_text())["entries"]
    edit(path, entries={"mail": entries["payroll"], "payroll": entries["mail"]})

    for name in ("mail", "payroll"):
        with pytest.raises(CredentialUnavailable, match=f"entry '{name}' does not open with this key"):
            keystore.get(name)


@pytest.mark.parametrize(
    "sealed",
    [
        {"nonce": "AAAAAAAAAAAAAAAA", "sealed": "AAAAAAAAAAAAAAAAAAAAAAAAAAAA"},
        {"nonce": "AAAA", "sealed": "AAAAAAAAAAAAAAAAAAAAAAAAAAAA"},
        {"nonce": "AAAAAAAAAAAAAAAA", "sealed": ""},
        {"nonce": "no base64!!!", "sealed": "x"},
    ],
)
def test_a_damaged_entry_does_not_open(keystore: Keystore, path: Path, sealed: dict[str, str]) -> None:
    edit(path, entries={"crm": sealed})

    with pytest.raises(CredentialUnavailable, match="entry 'crm' does not open with this key"):
        keystore.get("crm")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1}'])
def test_a_damaged_file_is_told(path: Path, content: str) -> None:
    path.write_text(content)
    assert "keystore.json cannot be read as a keystore" in locked(path)


def test_a_missing_file_is_told(path: Path) -> None:
    assert "restore it, or make a new one with: toolgate init" in locked(path)


@pytest.mark.parametrize(
    ("origin", "told"),
    [
        ({"source": "passphrase", "name": "", "salt": "?"}, "was damaged"),
        ({"source": "passphrase", "name": "", "salt": "AAAA"}, "was damaged"),
        ({"source": "passphrase", "name": "", "salt": "AAAAAAAAAAAAAAAAAAAAAA==", "lanes": 0}, "was damaged"),
        ({"source": "file", "name": "../other/keystore.key"}, "was damaged"),
    ],
)
def test_a_damaged_origin_does_not_open(
    keystore: Keystore, path: Path, origin: dict[str, object], told: str
) -> None:
    edit(path, key=origin)
    assert told in locked(path, passphrase=PASSPHRASE)


# --- the three sources of the key


def test_a_passphrase_opens_it_and_another_does_not(path: Path) -> None:
    Keystore.create(path, passphrase=PASSPHRASE, dev=False)
    Keystore(path, passphrase=PASSPHRASE, dev=False).set("crm", SecretStr(CANARY))

    origin = json.loads(path.read_text())["key"]
    assert (origin["source"], origin["iterations"], origin["memory_kib"]) == ("passphrase", 3, 65_536)
    assert [file.name for file in path.parent.iterdir() if file.suffix != ".lock"] == [path.name], (
        "the key is nowhere"
    )
    opened = Keystore(path, passphrase=PASSPHRASE, dev=False)
    assert opened.get("crm").get_secret_value() == CANARY
    assert "does not open with this key" in locked(path, passphrase=SecretStr("wrong"))
    assert "set TOOLGATE_PASSPHRASE" in locked(path)


def test_a_key_file_is_for_dev_mode_only(keystore: Keystore, path: Path) -> None:
    assert path.with_suffix(".key").stat().st_mode & 0o777 == 0o600
    assert "for dev mode only" in locked(path, dev=False)
    assert "for dev mode only" in locked(path, dev=False, passphrase=PASSPHRASE)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_file_that_others_can_read_is_refused(keystore: Keystore, path: Path, mode: int) -> None:
    path.with_suffix(".key").chmod(mode)
    assert "run: chmod 600 keystore.key" in locked(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [("AAAA", "its key was damaged"), ("A", "damaged"), ("A" * 43 + "=", "does not open")],
)
def test_a_damaged_key_file_does_not_open(keystore: Keystore, path: Path, content: str, told: str) -> None:
    path.with_suffix(".key").write_text(content)
    assert told in locked(path)


def test_a_missing_key_file_is_told_and_nothing_else_is_tried(keystore: Keystore, path: Path) -> None:
    path.with_suffix(".key").unlink()
    assert "keystore.key cannot be read" in locked(path, passphrase=PASSPHRASE)


def test_a_keyring_is_used_where_there_is_one(ring: MemoryKeyring, path: Path) -> None:
    Keystore.create(path, passphrase=PASSPHRASE, dev=True)
    in_dev(path).set("crm", SecretStr(CANARY))

    assert list(ring.kept) == [("toolgate", str(path))]
    assert [file.name for file in path.parent.iterdir() if file.suffix != ".lock"] == [path.name]
    assert Keystore(path, passphrase=None, dev=False).get("crm").get_secret_value() == CANARY


def test_a_keyring_that_is_locked_or_empty_is_told_and_nothing_else_is_tried(
    ring: MemoryKeyring, path: Path
) -> None:
    Keystore.create(path, passphrase=None, dev=False)
    ring.locked = True
    assert "the operating system's keyring did not open" in locked(path, passphrase=PASSPHRASE)
    ring.locked = False
    ring.kept.clear()
    assert "its key is not in the operating system's keyring" in locked(path, passphrase=PASSPHRASE)


def test_a_keyring_that_takes_no_key_is_told(ring: MemoryKeyring, path: Path) -> None:
    ring.locked = True
    with pytest.raises(CredentialUnavailable, match="keyring did not take its key"):
        Keystore.create(path, passphrase=PASSPHRASE, dev=True)
    assert not path.exists()


def test_a_keyring_that_keeps_plain_text_is_not_used(path: Path) -> None:
    plain = MemoryKeyring(priority=0.5)  # as keyrings.alt says of its files
    keyring.set_keyring(plain)
    Keystore.create(path, passphrase=None, dev=True)

    assert plain.kept == {}
    assert json.loads(path.read_text())["key"]["source"] == "file"


def test_in_production_with_neither_keyring_nor_passphrase_there_is_no_keystore(path: Path) -> None:
    with pytest.raises(CredentialUnavailable, match="set TOOLGATE_PASSPHRASE"):
        Keystore.create(path, passphrase=None, dev=False)
    assert list(path.parent.iterdir()) == []
