"""The hash tree over a file's footer: 4-KiB leaves, 256 hashes a node, so that a reader checks only what it touches.

Source: Merkle trees; the fan-out makes a node as large as a leaf. One leaf of a footer of up to 1 MiB costs one table
of at most 4 KiB beside it, of up to 256 MiB two. The root over the top node is in the trailer (``layout.root_hash``).
"""

from __future__ import annotations

from collections.abc import Callable

from headrace.storage.errors import CorruptFooter
from headrace.storage.layout import HASH_BYTES, LEAF_BYTES, hash16

FAN_OUT = LEAF_BYTES // HASH_BYTES


def level_sizes(footer_len: int) -> list[int]:
    """Number of hashes on each level, leaves first; the last level, the top node, has at most 256."""
    sizes = [-(-footer_len // LEAF_BYTES)]
    while sizes[-1] > FAN_OUT:
        sizes.append(-(-sizes[-1] // FAN_OUT))
    return sizes


def tree_bytes(footer_len: int) -> int:
    """Bytes of all levels together."""
    return HASH_BYTES * sum(level_sizes(footer_len))


def build(footer: bytes | memoryview) -> list[bytes]:
    """All levels over ``footer``, leaves first; the last one is the top node."""
    view = memoryview(footer)
    levels = [b"".join(hash16(view[at : at + LEAF_BYTES]) for at in range(0, len(view), LEAF_BYTES))]
    while len(levels[-1]) > LEAF_BYTES:
        below = memoryview(levels[-1])
        levels.append(
            b"".join(hash16(below[at : at + LEAF_BYTES]) for at in range(0, len(below), LEAF_BYTES))
        )
    return levels


class Tree:
    """Hands out the expected hash of each leaf, after checking the nodes on the way from the top down."""

    def __init__(self, file: str, footer_len: int, off: int, read: Callable[[int, int], bytes]) -> None:
        self._file = file
        self._read = read
        self._sizes = level_sizes(footer_len)
        self._offs = [off + HASH_BYTES * sum(self._sizes[:level]) for level in range(len(self._sizes))]
        self._nodes: dict[tuple[int, int], bytes] = {}
        self.top = read(self._offs[-1], HASH_BYTES * self._sizes[-1])
        self._nodes[len(self._sizes) - 1, 0] = self.top

    def expected(self, leaf: int, level: int = 0) -> bytes:
        """The 16-byte hash that leaf (or node of ``level - 1``) must have.

        Raises:
            CorruptFooter: a node on the way does not match the hash above it.
        """
        index = leaf // FAN_OUT
        node = self._nodes.get((level, index))
        if node is None:
            first = index * FAN_OUT
            off = self._offs[level] + HASH_BYTES * first
            node = self._read(off, HASH_BYTES * min(FAN_OUT, self._sizes[level] - first))
            expected, got = self.expected(index, level + 1), hash16(node)
            if got != expected:
                what = f"hash tree node {index} of level {level}"
                raise CorruptFooter(self._file, what, offset=off, expected=expected.hex(), got=got.hex())
            self._nodes[level, index] = node
        at = HASH_BYTES * (leaf % FAN_OUT)
        return node[at : at + HASH_BYTES]
