"""Our proofs and checkpoints are accepted by code that nobody here wrote, and what was changed is refused."""

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sigstore._internal.merkle import verify_merkle_inclusion
from sigstore._internal.rekor.checkpoint import verify_checkpoint
from sigstore._internal.trust import Keyring, RekorKeyring
from sigstore.errors import VerificationError
from sigstore.models import TransparencyLogEntry
from sigstore_models.common.v1 import PublicKey, PublicKeyDetails
from sigstore_models.rekor.v1 import TransparencyLogEntry as Logged

from examples.node import find_node, install
from tests.ledgers import Signer
from toolgate.backends.cosigning import WitnessKey
from toolgate.core.merkle import Frontier, inclusion_proof, leaf_hash, root_at
from toolgate.verifier import Note, VerifierKey, verify_proof

pymerkle: Any = import_module("pymerkle")  # it has no types
Grown: TypeAlias = Any

ORACLES: Final = Path(__file__).parent / "oracles"
SIZES: Final = (1, 2, 3, 4, 5, 7, 8, 9, 13, 64, 65, 256, 257, 300)
OURS, FOREIGN = Signer(1), Signer(2)


@dataclass(frozen=True)
class Tree:
    """A log of small entries."""

    entries: tuple[bytes, ...]

    def hashes(self, level: int, first: int, count: int) -> Sequence[bytes]:
        width = 1 << level
        return [self._complete(number * width, width) for number in range(first, first + count)]

    def root(self, size: int) -> bytes:
        return root_at(size, self.hashes)

    def _complete(self, first: int, width: int) -> bytes:
        frontier = Frontier()
        for entry in self.entries[first : first + width]:
            frontier.append(leaf_hash(entry))
        return frontier.root()


TREE: Final = Tree(tuple(b'{"number":%d}' % number for number in range(300)))


@dataclass(frozen=True)
class Proven:
    """An entry, its proof, and the checkpoint that it leads to."""

    entry: bytes
    index: int
    size: int
    hashes: tuple[bytes, ...]
    note: str

    @classmethod
    def of(cls, index: int, size: int, signer: Signer = OURS) -> "Proven":
        hashes = tuple(inclusion_proof(index, size, TREE.hashes))
        return cls(TREE.entries[index], index, size, hashes, signer.note(size, TREE.root(size)))

    def proofs_changed(self) -> list["Proven"]:
        """What somebody might make of the proof."""
        changed: list[Proven] = [
            replace(self, entry=self.entry + b" "),
            replace(self, index=self.index + self.size),
            replace(self, hashes=(*self.hashes, bytes(32))),
            replace(self, note=OURS.note(self.size, bytes(32))),
        ]
        if self.hashes:
            changed.append(replace(self, index=self.index ^ 1))
            changed.append(replace(self, hashes=self.hashes[:-1]))
            changed.append(replace(self, hashes=(bytes(32), *self.hashes[1:])))
        return changed

    def notes_changed(self) -> list["Proven"]:
        """What somebody without the key might make of the checkpoint."""
        return [
            replace(self, note=FOREIGN.note(self.size, TREE.root(self.size))),
            replace(self, note=self.note.replace(f"\n{self.size}\n", f"\n{self.size + 1}\n", 1)),
            replace(self, note=self.note.replace("desk", "else")),
        ]

    @property
    def file(self) -> str:
        """The C2SP `tlog-proof`."""
        parts = [_base64(part) for part in (self.entry, *self.hashes)]
        lines = ["c2sp.org/tlog-proof@v1", f"extra {parts[0]}", f"index {self.index}", *parts[1:]]
        return "\n".join(lines) + f"\n\n{self.note}"


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _spki() -> str:
    key = Ed25519PublicKey.from_public_bytes(OURS.key.public)
    return _base64(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


WITNESSES: Final = tuple(WitnessKey.new(f"witness.example/{number}") for number in range(3))


def cosigned(proven: Proven) -> Proven:
    """The same under a checkpoint with the lines of three witnesses."""
    text = Note.parse(proven.note).text
    lines = "".join(f"{key.cosign(text, 1_796_000_000)}\n" for key in WITNESSES)
    return replace(proven, note=proven.note + lines)


PROVEN: Final = [Proven.of(index, size) for size in SIZES for index in sorted({0, size // 2, size - 1})]
PROOFS_CHANGED: Final = [changed for proven in PROVEN for changed in proven.proofs_changed()]
NOTES_CHANGED: Final = [changed for proven in PROVEN for changed in proven.notes_changed()]


@pytest.fixture(scope="module")
def oracles() -> Path:
    """Install what the lock file names, each package by its digest."""
    install(ORACLES)
    return ORACLES


def npm(proofs: list[Proven], folder: Path) -> list[bool]:
    """Ask npm's own verifier of provenance."""
    log = {"id": OURS.key.id.hex(), "name": OURS.key.name, "spki": _spki()}
    asked = [
        {
            "log": log,
            "entry": _base64(proven.entry),
            "index": proven.index,
            "hashes": [_base64(part) for part in proven.hashes],
            "checkpoint": proven.note,
        }
        for proven in proofs
    ]
    command = [*find_node().node, str(folder / "judge.js")]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said: list[bool] = json.loads(done.stdout)
    return said


def test_npm_accepts_our_proofs_and_checkpoints(oracles: Path) -> None:
    assert npm(PROVEN, oracles) == [True] * len(PROVEN)


def test_npm_accepts_checkpoints_with_lines_of_witnesses(oracles: Path) -> None:
    assert npm([cosigned(proven) for proven in PROVEN], oracles) == [True] * len(PROVEN)
    changed = [cosigned(proven) for proven in NOTES_CHANGED]
    assert npm(changed, oracles) == [False] * len(changed)


def test_npm_refuses_what_was_changed(oracles: Path) -> None:
    changed = PROOFS_CHANGED + NOTES_CHANGED
    assert npm(changed, oracles) == [False] * len(changed)


def sigstore(proven: Proven) -> bool:
    """Ask Python's client of public logs."""
    key = PublicKey(raw_bytes=_spki().encode(), key_details=PublicKeyDetails.PKIX_ED25519)
    note = Note.parse(proven.note)
    proof = {
        "logIndex": str(proven.index),
        "treeSize": str(note.size),
        "rootHash": _base64(note.root),
        "hashes": [_base64(part) for part in proven.hashes],
        "checkpoint": {"envelope": proven.note},
    }
    entry = {
        "logIndex": str(proven.index),
        "logId": {"keyId": _base64(OURS.key.id)},
        "kindVersion": {"kind": "entry", "version": "2"},
        "inclusionProof": proof,
        "canonicalizedBody": _base64(proven.entry),
    }
    try:
        logged = TransparencyLogEntry(Logged.from_json(json.dumps(entry)))
        verify_checkpoint(RekorKeyring(Keyring([key])), logged)
        verify_merkle_inclusion(logged)
    except (VerificationError, ValueError):
        return False
    return True


def test_sigstore_accepts_our_proofs_and_checkpoints() -> None:
    assert [sigstore(proven) for proven in PROVEN] == [True] * len(PROVEN)


def test_sigstore_accepts_checkpoints_with_lines_of_witnesses() -> None:
    assert [sigstore(cosigned(proven)) for proven in PROVEN] == [True] * len(PROVEN)


def test_sigstore_refuses_what_was_changed() -> None:
    """It looks at a signature's key, not at its name: only that is missing."""
    changed = PROOFS_CHANGED + [changed for changed in NOTES_CHANGED if "desk" in changed.note]
    assert [sigstore(proven) for proven in changed] == [False] * len(changed)


@pytest.fixture(scope="module")
def grown() -> Grown:
    """The same entries in a tree that grew up apart from ours."""
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    for entry in TREE.entries:
        tree.append_entry(entry)
    return tree


def test_pymerkle_comes_to_our_roots_and_proofs(grown: Grown) -> None:
    for size in SIZES:
        assert grown.get_root(size) == TREE.root(size)
    for proven in PROVEN:
        path = grown.prove_inclusion(proven.index + 1, proven.size).path
        assert path == [leaf_hash(proven.entry), *proven.hashes]


def included(proven: Proven, grown: Grown) -> bool:
    note, leaf = Note.parse(proven.note), leaf_hash(proven.entry)
    rule: list[int] = (
        grown.prove_inclusion(proven.index + 1, note.size).rule if proven.index < note.size else []
    )
    proof = pymerkle.InclusionProof("sha256", True, note.size, proven.index + 1, rule, [leaf, *proven.hashes])
    return is_good(lambda: pymerkle.verify_inclusion(leaf, note.root, proof))


def is_good(verify: Callable[[], None]) -> bool:
    try:
        verify()
    except pymerkle.InvalidProof:
        return False
    return True


def test_pymerkle_judges_our_proofs_as_we_do(grown: Grown) -> None:
    assert [included(proven, grown) for proven in PROVEN] == [True] * len(PROVEN)
    assert [included(proven, grown) for proven in PROOFS_CHANGED] == [False] * len(PROOFS_CHANGED)


def test_our_own_verifier_judges_as_they_do() -> None:
    key = VerifierKey.parse(str(OURS.key))
    assert {verify_proof(proven.file, [key]).verdict for proven in PROVEN} == {"verified"}
    changed = PROOFS_CHANGED + NOTES_CHANGED
    assert {verify_proof(proven.file, [key]).verdict for proven in changed} == {"tampered"}
    assert {verify_proof(proven.file).verdict for proven in PROVEN} == {"cannot tell"}


def test_our_own_verifier_needs_nothing_of_ours(tmp_path: Path) -> None:
    """It runs by itself, away from the package and from its folder."""
    script = shutil.copy(Path(__file__).parents[1] / "tools" / "verify.py", tmp_path / "auditor.py")
    file = tmp_path / "entry.tlog-proof"
    file.write_text(PROVEN[-1].file)
    words = [sys.executable, "-I", script, "proof", file, "--key", str(OURS.key)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert '{"number":299}' in done.stdout
