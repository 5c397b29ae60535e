"""The embedded keystore: what opens it, what does not, and what can be read of it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.backends.fail import Keyring as NoKeyring
from keyring.errors import KeyringError, PasswordDeleteError
from pydantic import SecretStr

from toolgate.backends.keystore import Keystore, KeystoreSource
from toolgate.backends.lending import Wanted
from toolgate.core.arguments import Schema
from toolgate.core.call import Call, Caller
from toolgate.core.claims import Opened
from toolgate.core.credential_roles import FileRole
from toolgate.core.errors import CredentialUnavailable
from toolgate.core.lease import Lent
from toolgate.core.tool import Terms, Tool

pytestmark = pytest.mark.canaries

CANARY = "canary-3f9c17"
PASSPHRASE = SecretStr("correct horse battery staple")
NOW = datetime(2026, 11, 2, tzinfo=UTC)


class MemoryKeyring(KeyringBackend):
    """An operating system's keyring, as far as we see it."""

    priority: ClassVar[float] = -2  # pyright: ignore[reportIncompatibleVariableOverride]
    """So that no other test finds it by itself."""

    def __init__(self, priority: float = 5) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        vars(self)["priority"] = priority
        self.kept: dict[tuple[str, str], str] = {}
        self.locked = False
        self.keeps_all = False

    def get_password(self, service: str, username: str) -> str | None:
        if self.locked:
            raise KeyringError("locked")
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        if self.locked:
            raise KeyringError("locked")
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        if self.keeps_all:
            raise PasswordDeleteError("it stays")
        del self.kept[service, username]


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


def wanted(entry: str) -> Wanted:
    """A call's want of the entry, in the role `agent`."""
    role = FileRole(secret=entry, sign_in="bearer")
    terms = Terms(
        effect="read", timeout=1, duplicates="natural", without_key="allow", capture="full",
        scopes=frozenset(), credential="agent",
    )  # fmt: skip
    tool = Tool(
        name="crm.find", wire_name="crm_find", system="crm", operation="find", title="", description="",
        terms=terms, input=Schema({}), output=Schema({}), credential=role,
    )  # fmt: skip
    caller = Caller(subject="mia", issuer="test", tenant="home")
    call = Call(id="c1", caller=caller, tool=tool.name, arguments={}, received_at=NOW)
    return Wanted(
        name="agent", role=role, tool=tool, call=call, opened=Opened(call_id="c1", intent=7, remembered={})
    )


@pytest.mark.anyio
async def test_a_call_is_lent_the_secret_that_its_role_names_and_no_other(keystore: Keystore) -> None:
    keystore.set("crm", SecretStr(CANARY))
    keystore.set("mail", SecretStr("other"))
    source = KeystoreSource(keystore)

    lease = await source.lend(wanted("crm"))

    assert lease.secret.get_secret_value() == CANARY
    assert (lease.lent.role, lease.lent.source, lease.lent.kind, lease.until) == (
        "agent",
        "file",
        "static",
        None,
    )
    assert CANARY not in repr(lease)
    assert await source.take_back(lease) == Lent(id="static-c1", role="agent")
    with pytest.raises(CredentialUnavailable, match="the keystore has no entry 'gone'"):
        await source.lend(wanted("gone"))


def test_what_keeps_a_role_from_being_lent_is_told_beforehand(keystore: Keystore, path: Path) -> None:
    source = KeystoreSource(keystore)
    keystore.set("crm", SecretStr("x"))

    assert list(source.faults(FileRole(secret="crm", sign_in="none"))) == []
    (missing,) = source.faults(FileRole(secret="gone", sign_in="none"))
    assert missing == ("the keystore has no entry 'gone'", "add it: toolgate secrets set gone")
    path.unlink()
    ((problem, _),) = source.faults(FileRole(secret="crm", sign_in="none"))
    assert "cannot be read as a keystore" in problem


# --- rotating


def test_an_entry_is_rotated_only_where_there_is_one(keystore: Keystore, path: Path) -> None:
    with pytest.raises(CredentialUnavailable, match="add it with: toolgate secrets set crm"):
        keystore.rotate("crm", SecretStr("new"))
    assert keystore.names() == []

    keystore.set("crm", SecretStr("old"))
    in_dev(path).rotate("crm", SecretStr("new"))
    assert keystore.get("crm").get_secret_value() == "new"


def test_an_entry_says_when_it_was_set(path: Path) -> None:
    Keystore.create(path, passphrase=None, dev=True)
    times = iter([NOW, NOW + timedelta(days=1), NOW + timedelta(days=2)])
    keystore = Keystore(path, passphrase=None, dev=True, now=lambda: next(times))
    keystore.set("crm", SecretStr("x"))
    keystore.set("mail", SecretStr("x"))
    keystore.rotate("crm", SecretStr("y"))
    keystore.rotate_key(None)

    days = {name: in_dev(path).set_at(name) for name in keystore.names()}
    assert days == {"crm": NOW + timedelta(days=2), "mail": NOW + timedelta(days=1)}


def test_a_keystore_that_does_not_say_when_entries_were_set_opens(keystore: Keystore, path: Path) -> None:
    keystore.set("crm", SecretStr("x"))
    kept = json.loads(path.read_text())
    del kept["check"]["set_at"], kept["entries"]["crm"]["set_at"]
    path.write_text(json.dumps(kept))

    assert in_dev(path).get("crm").get_secret_value() == "x"
    assert in_dev(path).set_at("crm") is None


def files(path: Path) -> set[str]:
    return {file.name for file in path.parent.iterdir() if file.suffix != ".lock"}


def test_the_key_in_a_file_is_changed_and_the_old_one_is_gone(keystore: Keystore, path: Path) -> None:
    keystore.set("crm", SecretStr(CANARY))
    before = path.read_bytes()
    old_key = path.with_suffix(".key").read_bytes()

    rotated = in_dev(path).rotate_key(None)

    assert (rotated.source, rotated.entries, rotated.old_is_gone) == ("file", 1, True)
    name = str(json.loads(path.read_text())["key"]["name"])
    assert files(path) == {path.name, name}
    assert (path.parent / name).stat().st_mode & 0o777 == 0o600
    for opened in (in_dev(path), keystore):
        assert opened.get("crm").get_secret_value() == CANARY, "a gate that has it open goes on, too"
    keystore.set("mail", SecretStr("x"))
    assert in_dev(path).names() == ["crm", "mail"], "and seals with the new key"

    (path.parent / name).write_bytes(old_key)
    assert "does not open with this key" in locked(path)
    path.write_bytes(before)
    path.with_suffix(".key").write_bytes(old_key)
    path.with_suffix(".key").chmod(0o600)
    assert in_dev(path).get("crm").get_secret_value() == CANARY, "old copies want the old key"


def test_the_key_in_a_keyring_is_changed_and_the_old_one_is_gone(ring: MemoryKeyring, path: Path) -> None:
    Keystore.create(path, passphrase=None, dev=False)
    gate = Keystore(path, passphrase=None, dev=False)
    gate.set("crm", SecretStr(CANARY))
    before = dict(ring.kept)

    rotated = Keystore(path, passphrase=None, dev=False).rotate_key(None)

    assert (rotated.source, rotated.old_is_gone) == ("keyring", True)
    assert len(ring.kept) == 1
    assert not before.items() & ring.kept.items()
    assert gate.get("crm").get_secret_value() == CANARY

    ring.keeps_all = True
    assert not gate.rotate_key(None).old_is_gone, "and that is told"
    assert gate.get("crm").get_secret_value() == CANARY


def test_a_keyring_that_takes_no_new_key_leaves_all_as_it_was(ring: MemoryKeyring, path: Path) -> None:
    Keystore.create(path, passphrase=None, dev=False)
    keystore = Keystore(path, passphrase=None, dev=False)
    keystore.set("crm", SecretStr("x"))
    before = path.read_bytes()

    ring.locked = True
    with pytest.raises(CredentialUnavailable, match="keyring did not take its key"):
        keystore.rotate_key(None)
    assert path.read_bytes() == before


def test_a_passphrase_is_changed_for_a_new_one_and_only_for_that(path: Path) -> None:
    new = SecretStr("another passphrase")
    Keystore.create(path, passphrase=PASSPHRASE, dev=False)
    keystore = Keystore(path, passphrase=PASSPHRASE, dev=False)
    keystore.set("crm", SecretStr(CANARY))
    with pytest.raises(CredentialUnavailable, match="set TOOLGATE_NEW_PASSPHRASE"):
        keystore.rotate_key(None)

    assert keystore.rotate_key(new).source == "passphrase"

    assert Keystore(path, passphrase=new, dev=False).get("crm").get_secret_value() == CANARY
    assert "its passphrase is another one" in locked(path, passphrase=PASSPHRASE)


def test_with_a_new_passphrase_the_key_leaves_its_file(keystore: Keystore, path: Path) -> None:
    keystore.set("crm", SecretStr(CANARY))
    assert in_dev(path).rotate_key(PASSPHRASE).source == "passphrase"

    assert files(path) == {path.name}
    assert Keystore(path, passphrase=PASSPHRASE, dev=False).get("crm").get_secret_value() == CANARY, (
        "so a deployment goes from dev to production"
    )


@pytest.mark.anyio
async def test_a_gate_without_the_new_passphrase_lends_nothing_and_says_what_to_do(path: Path) -> None:
    Keystore.create(path, passphrase=PASSPHRASE, dev=False)
    gate = Keystore(path, passphrase=PASSPHRASE, dev=False)
    gate.set("crm", SecretStr(CANARY))
    source = KeystoreSource(gate)
    Keystore(path, passphrase=PASSPHRASE, dev=False).rotate_key(SecretStr("another passphrase"))

    began = time.monotonic()
    for _ in range(100):
        with pytest.raises(CredentialUnavailable, match="start again with that one in TOOLGATE_PASS") as told:
            await source.lend(wanted("crm"))
        assert told.value.code == "keystore_locked"
    assert time.monotonic() - began < 15, "the passphrase is tried once, not at each call"


def test_a_damaged_entry_keeps_the_old_key_and_can_be_removed(keystore: Keystore, path: Path) -> None:
    keystore.set("crm", SecretStr("x"))
    entries = json.loads(path.read_text())["entries"]
    edit(path, entries=entries | {"mail": entries["crm"]})
    before = path.read_bytes(), files(path)

    with pytest.raises(CredentialUnavailable, match="entry 'mail' does not open with this key"):
        keystore.rotate_key(None)
    assert (path.read_bytes(), files(path)) == before

    keystore.remove("mail")
    assert keystore.rotate_key(None).entries == 1


KILLED_AT_EACH_STEP = """
import os, pathlib, shutil, sys
from pydantic import SecretStr
from toolgate.backends.keystore import Keystore
from toolgate.core.errors import CredentialUnavailable

whole, passphrases = pathlib.Path(sys.argv[1]), [SecretStr(word) for word in sys.argv[2:]]
path = whole.with_name("copy") / "keystore.json"

def opened(passphrase):
    return Keystore(path, passphrase=passphrase, dev=True)

def rotate_and_die(after):
    keystore, left = opened(passphrases[0] if passphrases else None), [after]
    def die(event, arguments):
        if event in {"open", "os.rename", "os.remove"}:
            if not left[0]:
                os._exit(9)
            left[0] -= 1
    sys.addaudithook(die)
    keystore.rotate_key(passphrases[1] if passphrases else None)
    os._exit(0)

def opens(passphrase):
    try:
        return opened(passphrase).get("crm").get_secret_value() == "secret"
    except CredentialUnavailable:
        return False

for after in range(100):
    shutil.rmtree(path.parent, ignore_errors=True)
    shutil.copytree(whole, path.parent)
    child = os.fork()
    if not child:
        rotate_and_die(after)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    ways = [opens(passphrase) for passphrase in passphrases or [None]]
    print(after, code, sum(ways))
    if not code:
        break
"""


@pytest.mark.parametrize("passphrases", [(), ("old passphrase", "new passphrase")])
def test_a_change_of_the_key_that_dies_at_any_step_leaves_a_keystore_that_opens(
    tmp_path: Path, passphrases: tuple[str, ...]
) -> None:
    path = tmp_path / "whole" / "keystore.json"
    path.parent.mkdir()
    old = SecretStr(passphrases[0]) if passphrases else None
    Keystore.create(path, passphrase=old, dev=True)
    Keystore(path, passphrase=old, dev=True).set("crm", SecretStr("secret"))

    told = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EACH_STEP, str(path.parent), *passphrases],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring"},
    )

    *died, whole = [tuple(map(int, line.split())) for line in told.stdout.splitlines()]
    assert len(died) >= 4
    assert {(code, ways) for _, code, ways in died} == {(9, 1)}, told.stdout
    assert whole[1:] == (0, 1)


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
