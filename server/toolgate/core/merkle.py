"""The Merkle tree of a transparency log, as pure functions (RFC 9162, section 2.1; that of RFC 6962).

A tree is read through `Hashes`: the leaf hashes and, of every complete block of 256, one node; the rest is
computed. All hashes are 32 bytes of SHA-256.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final, TypeAlias

HASH_BYTES: Final = 32
STRIDE: Final = 8
"""Nodes are kept at every eighth level: one for 256 leaves, one for 256 of those, and so on."""
EMPTY_ROOT: Final = sha256(b"").digest()

Hashes: TypeAlias = Callable[[int, int, int], Sequence[bytes]]
"""`(level, first, count)` gives so many hashes of a kept level; level 0 is the leaves."""


def leaf_hash(entry: bytes) -> bytes:
    """Hash an entry (RFC 9162, section 2.1.1)."""
    return sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two nodes into their parent (RFC 9162, section 2.1.1)."""
    return sha256(b"\1" + left + right).digest()


class Frontier:
    """The roots of the complete subtrees that a tree consists of, largest first: all that appending needs."""

    def __init__(self, size: int = 0, roots: Sequence[bytes] = ()) -> None:
        if size < 0 or size.bit_count() != len(roots):
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} subtrees, not {len(roots)}")
        self.size = size
        self._roots = list(roots)

    @classmethod
    def unpack(cls, size: int, packed: bytes) -> "Frontier":
        """Read what `pack` gave. Raises `ValueError` for anything else."""
        if len(packed) != size.bit_count() * HASH_BYTES:
            raise ValueError(f"{len(packed)} bytes are not the frontier of {size} leaves")
        return cls(size, [packed[at : at + HASH_BYTES] for at in range(0, len(packed), HASH_BYTES)])

    def pack(self) -> bytes:
        """Give the subtrees' roots in one piece; empty for the empty tree."""
        return b"".join(self._roots)

    def append(self, leaf: bytes) -> list[tuple[int, int, bytes]]:
        """Add a leaf hash; gives the nodes to keep that it completed, as (level, number, hash)."""
        kept: list[tuple[int, int, bytes]] = []
        node, level, size = leaf, 0, self.size
        while size & 1:
            node = node_hash(self._roots.pop(), node)
            size >>= 1
            level += 1
            if level % STRIDE == 0:
                kept.append((level, size, node))
        self._roots.append(node)
        self.size += 1
        return kept

    def root(self) -> bytes:
        """Give the root of the whole tree."""
        return _join(self._roots)


def inclusion_proof(index: int, size: int, hashes: Hashes) -> list[bytes]:
    """Prove that the leaf at `index` is in the tree of `size` leaves (RFC 9162, section 2.1.3.1).

    Raises:
        ValueError: there is no such leaf in such a tree.
    """
    if not 0 <= index < size:
        raise ValueError(f"there is no entry {index} among {size}")
    proof: list[bytes] = []
    first, last = 0, size
    while last - first > 1:
        middle = first + _split(last - first)
        if index < middle:
            proof.append(_root_between(middle, last, hashes))
            last = middle
        else:
            proof.append(_root_between(first, middle, hashes))
            first = middle
    return proof[::-1]


def consistency_proof(old: int, new: int, hashes: Hashes) -> list[bytes]:
    """Prove that the tree of `new` leaves begins with the tree of `old` (RFC 9162, section 2.1.4.1).

    Raises:
        ValueError: unless 0 < old <= new.
    """
    if not 0 < old <= new:
        raise ValueError(f"a tree of {new} entries does not extend one of {old}")
    proof: list[bytes] = []
    first, last, whole = 0, new, True
    while old != last:
        middle = first + _split(last - first)
        if old <= middle:
            proof.append(_root_between(middle, last, hashes))
            last = middle
        else:
            proof.append(_root_between(first, middle, hashes))
            first, whole = middle, False
    if not whole:
        proof.append(_root_between(first, last, hashes))
    return proof[::-1]


def root_at(size: int, hashes: Hashes) -> bytes:
    """Give the root of the tree's first `size` leaves."""
    return _root_between(0, size, hashes) if size else EMPTY_ROOT


def root_from_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes]) -> bytes | None:
    """Give the root that an inclusion proof leads to (RFC 9162, section 2.1.3.2); None for a bad shape."""
    if not 0 <= index < size or len(leaf) != HASH_BYTES or any(len(part) != HASH_BYTES for part in proof):
        return None
    node, at, last = leaf, index, size - 1
    for part in proof:
        if last == 0:
            return None
        if at & 1 or at == last:
            node = node_hash(part, node)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            node = node_hash(node, part)
        at, last = at >> 1, last >> 1
    return node if last == 0 else None


def is_consistent(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether `proof` shows that the tree under `new_root` extends the one under `old_root`.

    RFC 9162, section 2.1.4.2, with 1 <= old <= new and hashes of 32 bytes demanded.
    """
    parts = [old_root, new_root, *proof]
    if not 0 < old <= new or any(len(part) != HASH_BYTES for part in parts):
        return False
    if old == new:
        return not proof and old_root == new_root
    path = list(proof) if old & (old - 1) else [old_root, *proof]
    if not path:
        return False
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    before = after = path[0]
    for part in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            before, after = node_hash(part, before), node_hash(part, after)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            after = node_hash(after, part)
        at, last = at >> 1, last >> 1
    return last == 0 and before == old_root and after == new_root


def _split(size: int) -> int:
    """The largest power of two that is smaller than `size`."""
    return 1 << (size - 1).bit_length() - 1


def _root_between(first: int, last: int, hashes: Hashes) -> bytes:
    """Give the root over the leaves [first, last), where `first` is a multiple of the next power of two."""
    roots: list[bytes] = []
    while first < last:
        level = (last - first).bit_length() - 1
        roots.append(_complete(level, first >> level, hashes))
        first += 1 << level
    return _join(roots)


def _complete(level: int, number: int, hashes: Hashes) -> bytes:
    """Give the root of a complete subtree out of the nearest level that is kept."""
    above = level % STRIDE
    nodes = list(hashes(level - above, number << above, 1 << above))
    if len(nodes) != 1 << above:
        raise ValueError(f"hashes of level {level - above} are missing from {number << above} on")
    while len(nodes) > 1:
        nodes = [node_hash(nodes[at], nodes[at + 1]) for at in range(0, len(nodes), 2)]
    return nodes[0]


def _join(roots: Sequence[bytes]) -> bytes:
    """Give the root over complete subtrees that stand side by side, largest first."""
    if not roots:
        return EMPTY_ROOT
    node = roots[-1]
    for left in reversed(roots[:-1]):
        node = node_hash(left, node)
    return node
