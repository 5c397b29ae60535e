"""The tree, its proofs and its notes are the published ones, in the core and in the verifier alike."""

import base64
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

import toolgate.core.merkle as core
import toolgate.core.note as core_note
from tests.ledgers import Signer
from toolgate import verifier

# The seven steps of Certificate Transparency's reference tree, which every implementation is tested with.
ENTRIES: Final = [
    bytes.fromhex(entry)
    for entry in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS: Final = {
    0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    4: "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    5: "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    6: "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    7: "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}
A: Final = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
B: Final = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
C: Final = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
D: Final = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
E: Final = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
F: Final = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
INCLUDED: Final[list[tuple[int, int, list[str]]]] = [
    (0, 1, []),
    (0, 8, [A, B, C]),
    (5, 8, [D, E, ROOTS[4]]),
    (2, 3, [ROOTS[2]]),
    (1, 5, [ROOTS[1], B, D]),
]
CONSISTENT: Final[list[tuple[int, int, list[str]]]] = [
    (1, 1, []),
    (1, 8, [A, B, C]),
    (6, 8, [F, E, ROOTS[4]]),
    (2, 5, [B, D]),
]


class Proofs(Protocol):
    """What the core and the verifier both have, each written by itself."""

    def leaf_hash(self, entry: bytes) -> bytes: ...
    def root_from_inclusion(
        self, index: int, size: int, leaf: bytes, proof: Sequence[bytes]
    ) -> bytes | None: ...
    def is_consistent(
        self, old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
    ) -> bool: ...


BOTH: Final[list[Proofs]] = [core, verifier]
both = pytest.mark.parametrize("proofs", BOTH, ids=["core", "verifier"])


def naive_root(leaves: Sequence[bytes]) -> bytes:
    """RFC 9162, section 2.1.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\1" + naive_root(leaves[:split]) + naive_root(leaves[split:])).digest()


def naive_inclusion(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """RFC 9162, section 2.1.3.1."""
    if len(leaves) == 1:
        return []
    split = 1 << (len(leaves) - 1).bit_length() - 1
    if index < split:
        return [*naive_inclusion(index, leaves[:split]), naive_root(leaves[split:])]
    return [*naive_inclusion(index - split, leaves[split:]), naive_root(leaves[:split])]


def naive_consistency(old: int, leaves: Sequence[bytes], *, whole: bool = True) -> list[bytes]:
    """RFC 9162, section 2.1.4.1."""
    if old == len(leaves):
        return [] if whole else [naive_root(leaves)]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    if old <= split:
        return [*naive_consistency(old, leaves[:split], whole=whole), naive_root(leaves[split:])]
    return [*naive_consistency(old - split, leaves[split:], whole=False), naive_root(leaves[:split])]


def leaves_of(size: int) -> list[bytes]:
    return [core.leaf_hash(str(number).encode()) for number in range(size)]


def kept(leaves: Sequence[bytes]) -> core.Hashes:
    """The levels that the gate keeps."""

    def hashes(level: int, first: int, count: int) -> Sequence[bytes]:
        width = 1 << level
        return [naive_root(leaves[at * width : (at + 1) * width]) for at in range(first, first + count)]

    return hashes


def changed(proof: list[bytes], data: st.DataObject) -> list[bytes]:
    """Another proof: shorter, longer, with a bit flipped, with a hash twice, or cut short."""
    makers: list[Callable[[], list[bytes]]] = [lambda: [*proof, sha256(b"more").digest()]]
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        flipped = bytes([proof[at][0] ^ 1]) + proof[at][1:]
        makers.append(lambda: [*proof[:at], *proof[at + 1 :]])
        makers.append(lambda: [*proof[:at], flipped, *proof[at + 1 :]])
        makers.append(lambda: [*proof[:at], proof[at][:-1], *proof[at + 1 :]])
        makers.append(lambda: [*proof[:at], proof[at], *proof[at:]])
    return data.draw(st.sampled_from(makers))()


@pytest.mark.parametrize(("size", "root"), ROOTS.items())
def test_roots_are_the_published_ones(size: int, root: str) -> None:
    frontier, tree = core.Frontier(), verifier.Tree()
    for entry in ENTRIES[:size]:
        frontier.append(core.leaf_hash(entry))
    list(tree.add([verifier.leaf_hash(entry) for entry in ENTRIES[:size]]))
    assert frontier.root().hex() == tree.root(size).hex() == root


@both
@pytest.mark.parametrize(("index", "size", "proof"), INCLUDED)
def test_published_inclusion_proofs(proofs: Proofs, index: int, size: int, proof: list[str]) -> None:
    leaves = [core.leaf_hash(entry) for entry in ENTRIES[:size]]
    hashes = [bytes.fromhex(part) for part in proof]
    assert core.inclusion_proof(index, size, kept(leaves)) == hashes
    root = proofs.root_from_inclusion(index, size, proofs.leaf_hash(ENTRIES[index]), hashes)
    assert root == bytes.fromhex(ROOTS[size])


@both
@pytest.mark.parametrize(("old", "new", "proof"), CONSISTENT)
def test_published_consistency_proofs(proofs: Proofs, old: int, new: int, proof: list[str]) -> None:
    leaves = [core.leaf_hash(entry) for entry in ENTRIES[:new]]
    hashes = [bytes.fromhex(part) for part in proof]
    assert core.consistency_proof(old, new, kept(leaves)) == hashes
    roots = bytes.fromhex(ROOTS[old]), bytes.fromhex(ROOTS[new])
    assert proofs.is_consistent(old, new, *roots, hashes)


@both
@given(size=st.integers(1, 300), data=st.data())
def test_inclusion_proof_leads_to_the_naive_root_and_no_other_proof_does(
    proofs: Proofs, size: int, data: st.DataObject
) -> None:
    leaves, index = leaves_of(size), data.draw(st.integers(0, size - 1))
    root, proof = naive_root(leaves), naive_inclusion(index, leaves)
    assert core.inclusion_proof(index, size, kept(leaves)) == proof
    assert proofs.root_from_inclusion(index, size, leaves[index], proof) == root
    assert proofs.root_from_inclusion(index, size, leaves[index], changed(proof, data)) != root
    other = data.draw(st.integers(-3, size + 300).filter(lambda at: at != index))
    assert proofs.root_from_inclusion(other, size, leaves[index], proof) != root
    assert proofs.root_from_inclusion(index, size, leaves[index][:-1], proof) is None


@both
@given(new=st.integers(1, 300), data=st.data())
def test_consistency_proof_is_good_and_no_other_is(proofs: Proofs, new: int, data: st.DataObject) -> None:
    leaves, old = leaves_of(new), data.draw(st.integers(1, new))
    roots, proof = (naive_root(leaves[:old]), naive_root(leaves)), naive_consistency(old, leaves)
    assert core.consistency_proof(old, new, kept(leaves)) == proof
    assert proofs.is_consistent(old, new, *roots, proof)
    assert not proofs.is_consistent(old, new, *roots, changed(proof, data))
    assert not proofs.is_consistent(old, new, sha256(b"").digest(), roots[1], proof)
    assert not proofs.is_consistent(old, new, roots[0], sha256(b"").digest(), proof)


@both
@given(
    old=st.integers(-2, 40),
    new=st.integers(-2, 40),
    proof=st.lists(st.binary(min_size=31, max_size=33), max_size=7),
)
def test_verifying_takes_anything_and_an_empty_tree_proves_nothing(
    proofs: Proofs, old: int, new: int, proof: list[bytes]
) -> None:
    empty = sha256(b"").digest()
    assert proofs.root_from_inclusion(old, 0, empty, proof) is None
    assert not proofs.is_consistent(0, new, empty, empty, proof)
    assert not proofs.is_consistent(old, new, empty, sha256(b"x").digest(), proof)
    assert proofs.root_from_inclusion(old, new, empty, proof) != empty or (old, new, proof) == (0, 1, [])


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 65_535, 65_536, 65_537, 131_072, 196_608, 200_000])
def test_verifiers_blocks_give_the_gates_nodes_and_frontier(size: int) -> None:
    frontier, tree, leaf = core.Frontier(), verifier.Tree(), core.leaf_hash(b"")
    nodes = [node for _ in range(size) for node in frontier.append(leaf)]
    blocks = [min(1 << 16, size - at) for at in range(0, size + 1, 1 << 16)]
    found = [node for count in blocks for node in tree.add([leaf] * count)]
    assert sorted(found) == sorted(nodes)
    assert b"".join(tree.frontier(size)) == frontier.pack()
    assert tree.root(size) == frontier.root()


# The example of C2SP signed-note, and what the Go project's checksum database signed on 23 September 2024.
EXAMPLE_KEY: Final = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE: Final = """This is an example message.

\u2014 example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7\
Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=
"""
SUM_KEY: Final = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
SUM: Final = """go.sum database tree
30055305
mXfgRcJ0bG0j3CPdKwgGWtUzBUbX67saZGRmFuJGGsM=

\u2014 sum.golang.org Az3grpgEild5qw7+5dtV13Kf1C2Xurm8q4fhdxvcsDHnqNTaxL2A\
FjBY+2TyGKevucFcAAlWFJJYle3EJlDCrQ+y3A8=
"""


def test_published_note_is_good_in_core_and_verifier() -> None:
    key = verifier.VerifierKey.parse(EXAMPLE_KEY)
    note = core_note.Note.parse(EXAMPLE)
    [line] = note.signatures
    assert (line.name, line.key_id) == (key.name, key.id)
    assert key.signed(note.text.encode(), line.signature)
    assert not key.signed(note.text.encode()[1:], line.signature)
    assert str(core_note.VerifierKey.parse(EXAMPLE_KEY)) == str(key) == EXAMPLE_KEY
    with pytest.raises(verifier.Unreadable, match="no checkpoint"):
        verifier.Note.parse(EXAMPLE)


def test_checkpoint_of_a_public_log_is_good() -> None:
    key, note = verifier.VerifierKey.parse(SUM_KEY), verifier.Note.parse(SUM)
    assert note.signers([key]) == {key}
    assert (note.origin, note.size) == ("go.sum database tree", 30_055_305)
    parsed = core_note.Note.parse(SUM)
    assert core_note.Checkpoint.parse(parsed.text).root == note.root
    assert str(parsed) == SUM
    assert verifier.Note.parse(SUM.replace("30055305", "30055306")).signers([key]) == set()


def test_signatures_of_strangers_are_passed_over() -> None:
    ours, stranger = Signer(1), Signer(2)
    key = verifier.VerifierKey.parse(str(ours.key))
    text, _, line = ours.note(7, bytes(32)).partition("\n\n")
    strange = stranger.note(7, bytes(32)).partition("\n\n")[2]
    assert verifier.Note.parse(f"{text}\n\n{strange}{line}").signers([key]) == {key}
    assert verifier.Note.parse(f"{text}\n\n{strange}").signers([key]) == set()
    false = base64.b64encode(key.id + bytes(64)).decode()
    assert verifier.Note.parse(f"{text}\n\n{line}\u2014 {key.name} {false}\n").signers([key]) == set()


@pytest.mark.parametrize(
    "message",
    [
        "",
        "\n\n",
        "log\n7\n",
        "log\n7\nAAAA\n\n",
        "log\n07\n" + "A" * 43 + "=\n\n\u2014 log AAAAAAA=\n",
        "log\n7\n" + "A" * 43 + "=\n\n- log AAAAAAA=\n",
        "log\n7\n" + "A" * 43 + "=\n\n\u2014 log AAAA\n",
        "log\n7\n" + "A" * 43 + "=\n\n\u2014 log AAAAAAA=",
        "log\n7\n" + "A" * 42 + "B=\n\n\u2014 log AAAAAAA=\n",
        "log\n7\n" + "A" * 40 + "\n\n\u2014 log AAAAAAA=\n",
        "log\n7\r\n" + "A" * 43 + "=\n\n\u2014 log AAAAAAA=\n",
        "log\n\u0667\n" + "A" * 43 + "=\n\n\u2014 log AAAAAAA=\n",
    ],
)
def test_malformed_note_is_refused(message: str) -> None:
    with pytest.raises(verifier.Unreadable):
        verifier.Note.parse(message)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (verifier.Note.parse, verifier.VerifierKey.parse, verifier.verify_proof):
        with pytest.raises(verifier.Unreadable):
            read(text)


HEAD: Final = "c2sp.org/tlog-proof@v1\n"


@pytest.mark.parametrize(
    "proof",
    [
        HEAD,
        HEAD + "index 0\n\n",
        "c2sp.org/tlog-proof@v2\nindex 0\n\n" + SUM,
        HEAD + "\n" + SUM,
        HEAD + "index 00\n\n" + SUM,
        HEAD + "index -1\n\n" + SUM,
        HEAD + "extra ?\nindex 0\n\n" + SUM,
        HEAD + "extra AA==\nindex 0\nAAAA\n\n" + SUM,
        HEAD + "extra AA==\nindex 0\nAA\n\n" + SUM,
    ],
)
def test_malformed_proof_is_refused(proof: str) -> None:
    with pytest.raises(verifier.Unreadable):
        verifier.verify_proof(proof)


def test_proof_without_its_entry_cannot_be_judged() -> None:
    key = verifier.VerifierKey.parse(SUM_KEY)
    assert verifier.verify_proof(HEAD + "index 0\n\n" + SUM, [key]).verdict == "cannot tell"


@pytest.mark.parametrize(("old", "new"), [(1, 1), (3, 8), (4, 8), (7, 8), (2, 5)])
def test_consistency_of_two_checkpoints_is_shown_by_a_proof(old: int, new: int) -> None:
    ours = Signer(1)
    key = verifier.VerifierKey.parse(str(ours.key))
    leaves = leaves_of(new)
    older, newer = (verifier.Note.parse(ours.note(size, naive_root(leaves[:size]))) for size in (old, new))
    proof = "".join(f"{base64.b64encode(part).decode()}\n" for part in naive_consistency(old, leaves))
    assert verifier.verify_consistency(older, newer, proof, [key]).verdict == "verified"
    assert verifier.verify_consistency(older, newer, proof).verdict == "cannot tell"
    forked = verifier.Note.parse(ours.note(new, bytes(32)))
    assert verifier.verify_consistency(older, forked, proof, [key]).verdict == "tampered"
    stranger = verifier.VerifierKey.parse(str(Signer(2).key))
    assert verifier.verify_consistency(older, newer, proof, [stranger]).verdict == "tampered"
    longer = proof + base64.b64encode(bytes(32)).decode()
    assert verifier.verify_consistency(older, newer, longer, [key]).verdict == "tampered"


def test_consistency_is_asked_of_two_states_of_one_log() -> None:
    ours, root = Signer(1), bytes(32)
    one, two, empty = (verifier.Note.parse(ours.note(size, root)) for size in (1, 2, 0))
    other = verifier.Note.parse(Signer(1, "other.example").note(2, root))
    for old, new in ((two, one), (one, other), (empty, one)):
        with pytest.raises(verifier.Unreadable):
            verifier.verify_consistency(old, new, "")
