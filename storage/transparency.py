"""A Merkle tree over the entries of a log, with proofs that an entry is in it and that it only ever grew.

In the flow: below ``register``, which appends receipts; who keeps a root once can check later, offline, that nothing was
taken out or changed since. Hashes are BLAKE3 where the source has SHA-256. Source: RFC 6962, section 2.1, and the checking
algorithms of RFC 9162, in its section on Merkle trees.
"""

from __future__ import annotations

from collections.abc import Sequence

from blake3 import blake3

Hash = bytes
"""32 bytes."""


def leaf(entry: bytes) -> Hash:
    """The hash of one entry."""
    return bytes(blake3(b"\x00" + entry).digest())


def root(leaves: Sequence[Hash]) -> Hash:
    """The tree's head over some leaves; of none, the hash of nothing."""
    if not leaves:
        return bytes(blake3(b"").digest())
    if len(leaves) == 1:
        return leaves[0]
    cut = _cut(len(leaves))
    return _node(root(leaves[:cut]), root(leaves[cut:]))


def inclusion(leaves: Sequence[Hash], at: int) -> tuple[Hash, ...]:
    """The siblings on the way from leaf ``at`` to the root, lowest first.

    >>> some = [leaf(bytes([n])) for n in range(7)]
    >>> includes(root(some), 7, 5, some[5], inclusion(some, 5))
    True
    """
    if len(leaves) < 2:
        return ()
    cut = _cut(len(leaves))
    if at < cut:
        return (*inclusion(leaves[:cut], at), root(leaves[cut:]))
    return (*inclusion(leaves[cut:], at - cut), root(leaves[:cut]))


def includes(head: Hash, size: int, at: int, entry: Hash, proof: Sequence[Hash]) -> bool:
    """Whether the proof leads from a leaf to the head of a tree of ``size`` leaves."""
    if not 0 <= at < size:
        return False
    place, last, found = at, size - 1, entry
    for sibling in proof:
        if not last:
            return False
        if place & 1 or place == last:
            found = _node(sibling, found)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            found = _node(found, sibling)
        place, last = place >> 1, last >> 1
    return not last and found == head


def consistency(leaves: Sequence[Hash], old: int) -> tuple[Hash, ...]:
    """What shows that the tree of all leaves begins with the tree of the first ``old`` ones, 1 <= old <= their number.

    >>> some = [leaf(bytes([n])) for n in range(7)]
    >>> extends(root(some[:3]), 3, root(some), 7, consistency(some, 3))
    True
    """
    return _consistency(leaves, old, whole=True)


def _consistency(leaves: Sequence[Hash], old: int, *, whole: bool) -> tuple[Hash, ...]:
    if old == len(leaves):
        return () if whole else (root(leaves),)
    cut = _cut(len(leaves))
    if old <= cut:
        return (*_consistency(leaves[:cut], old, whole=whole), root(leaves[cut:]))
    return (*_consistency(leaves[cut:], old - cut, whole=False), root(leaves[:cut]))


def extends(old_head: Hash, old: int, head: Hash, size: int, proof: Sequence[Hash]) -> bool:
    """Whether a tree of ``size`` leaves begins with one of ``old`` leaves."""
    if old == size:
        return not proof and old_head == head
    if not 0 < old < size:
        return False
    path = list(proof) if old & (old - 1) else [old_head, *proof]
    if not path:
        return False
    place, last = old - 1, size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    before = after = path[0]
    for sibling in path[1:]:
        if not last:
            return False
        if place & 1 or place == last:
            before, after = _node(sibling, before), _node(sibling, after)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            after = _node(after, sibling)
        place, last = place >> 1, last >> 1
    return not last and before == old_head and after == head


def _node(left: Hash, right: Hash) -> Hash:
    return bytes(blake3(b"\x01" + left + right).digest())


def _cut(n: int) -> int:
    """The largest power of 2 below n."""
    return 1 << ((n - 1).bit_length() - 1)
