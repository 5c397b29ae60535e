"""Receipts by RFC 9942, as foreign code reads them."""

import sqlite3
import sys
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.ledgers import Signer
from tests.shell import document, done, faults
from toolgate.core.note import VerifierKey as CoreKey
from toolgate.verifier import VerifierKey, read_keys

scitt: Any = import_module("scitt_cose")  # it has no types


@pytest.fixture
def here(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A deployment with one call in it."""
    monkeypatch.chdir(root)
    done("call", "notes.add", "--args", '{"text": "x"}')
    return root


def _body(root: Path, index: int) -> bytes:
    with closing(sqlite3.connect(root / "data/toolgate.db")) as ledger:
        found: bytes = ledger.execute("SELECT body FROM ledger_entry WHERE idx = ?", (index,)).fetchone()[0]
        return found


def _pem(key: VerifierKey | CoreKey) -> bytes:
    public = Ed25519PublicKey.from_public_bytes(key.public)
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _verified(receipt: bytes, entry: bytes, pem: bytes) -> Any:  # noqa: ANN401 - a foreign class
    return scitt.verify_receipt(receipt, leaf_entry_hex=entry.hex(), log_public_key_pem=pem)


@pytest.mark.parametrize("index", [0, 3, 5])
def test_a_receipt_is_accepted_by_code_that_nobody_here_wrote(here: Path, tmp_path: Path, index: int) -> None:
    file = tmp_path / "entry.cose"
    said = document("ledger", "prove", f"{index}", "--out", f"{tmp_path / 'p'}", "--cose", f"{file}")
    (key,) = read_keys("keys/ledger.vkey")
    result = _verified(file.read_bytes(), _body(here, index), _pem(key))

    assert (result.ok, result.errors) == (True, [])
    assert (result.leaf_index, result.tree_size) == (index, said["size"])
    assert (result.issuer, result.subject) == (key.name, f"{key.name}/{index}")
    assert result.protected_header_ext == {4: key.id}
    assert said["receipt"] == f"{file}"


def test_what_was_changed_is_refused(here: Path, tmp_path: Path) -> None:
    file = tmp_path / "entry.cose"
    done("ledger", "prove", "3", "--cose", f"{file}")
    (key,) = read_keys("keys/ledger.vkey")
    receipt, pem = file.read_bytes(), _pem(key)
    foreign = _pem(Signer(9).key)

    assert _verified(receipt, _body(here, 3), pem).ok
    assert not _verified(receipt, _body(here, 4), pem).ok
    assert not _verified(receipt[:-1] + bytes([receipt[-1] ^ 1]), _body(here, 3), pem).ok
    assert not _verified(receipt, _body(here, 3), foreign).ok


def test_without_the_package_it_is_told_what_to_install(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cbor2", None)

    told = faults("ledger", "prove", "3", "--cose", f"{tmp_path / 'entry.cose'}")
    assert "pip install 'toolgate[cose]'" in told
    assert not (tmp_path / "entry.cose").exists()
    assert document("ledger", "prove", "3")["proof"]
