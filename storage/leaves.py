"""The hash tree over a file's footer: small leaves, 256 hashes a node, so that a reader checks only what it touches.

Source: Merkle trees. A leaf is 2,048 bytes, 4,096 in files of format 1.0; a node is as large as a disk page. One leaf
of a footer of up to 512 KiB costs the top node alone, of up to 128 MiB one node more. The root over the top node is in
the trailer (``layout.root_hash``). What the bytes of a leaf mean is the footer's business.
"""

from __future__ import annotations

from collections.abc import Iterable

from blake3 import blake3

from headrace.storage.errors import CorruptFooter
from headrace.storage.layout import HASH_BYTES, LEAF_BYTES, SMALL_LEAVES, hash16
from headrace.storage.source import Range, Source

FAN_OUT = 256
NODE_BYTES = FAN_OUT * HASH_BYTES
OLD_LEAF_BYTES = 4096
CACHED_BYTES = 16 << 20  # of leaves; more is read again when needed


def leaf_bytes(features: int) -> int:
    """Bytes of a leaf in a file with these required features."""
    return LEAF_BYTES if features & SMALL_LEAVES else OLD_LEAF_BYTES


def level_sizes(footer_len: int, leaf: int = LEAF_BYTES) -> list[int]:
    """Number of hashes on each level, leaves first; the last level, the top node, has at most 256."""
    sizes = [-(-footer_len // leaf)]
    while sizes[-1] > FAN_OUT:
        sizes.append(-(-sizes[-1] // FAN_OUT))
    return sizes


def tree_bytes(footer_len: int, leaf: int = LEAF_BYTES) -> int:
    """Bytes of all levels together."""
    return HASH_BYTES * sum(level_sizes(footer_len, leaf))


def build(footer: bytes | memoryview, leaf: int = LEAF_BYTES) -> list[bytes]:
    """All levels over ``footer``, leaves first; the last one is the top node."""
    view = memoryview(footer)
    levels = [b"".join(hash16(view[at : at + leaf]) for at in range(0, len(view), leaf))]
    while len(levels[-1]) > NODE_BYTES:
        below = memoryview(levels[-1])
        levels.append(
            b"".join(hash16(below[at : at + NODE_BYTES]) for at in range(0, len(below), NODE_BYTES))
        )
    return levels


class Leaves:
    """The footer's bytes, each leaf read and checked once, in batches; safe to use from one thread.

    Attributes:
        top: the top node, which the caller checks against the trailer's root before it asks for anything.
        bytes_read: of leaves and nodes, so far.
    """

    def __init__(self, source: Source, off: int, length: int, tree_off: int, leaf: int) -> None:
        self._source = source
        self._off, self._length, self._leaf = off, length, leaf
        sizes = level_sizes(length, leaf)
        starts = [tree_off + HASH_BYTES * sum(sizes[:level]) for level in range(len(sizes))]
        self._levels = list(zip(starts, sizes, strict=True))
        self._held: dict[int, bytes] = {}
        self.bytes_read = HASH_BYTES * sizes[-1]
        self.top = source.read(starts[-1], self.bytes_read)
        self._nodes: list[dict[int, bytes]] = [{} for _ in sizes]
        self._nodes[-1][0] = self.top

    def get(self, offset: int, length: int) -> bytes:
        """``length`` bytes at ``offset`` of the footer.

        Raises:
            CorruptFooter: a leaf does not match its hash.
        """
        leaf, held = self._leaf, self._held
        first, last = offset // leaf, (offset + length - 1) // leaf
        if first == last:
            data = held.get(first)
            if data is None:
                self.load([(offset, length)])
                data = held[first]
            at = offset - first * leaf
            return data[at : at + length]
        if not length:
            return b""
        self.load([(offset, length)])
        at = offset - first * leaf
        return b"".join([held[number] for number in range(first, last + 1)])[at : at + length]

    def load(self, ranges: Iterable[Range]) -> None:
        """Read and check the leaves of many (offset, length) ranges of the footer at once.

        Raises:
            CorruptFooter: one does not match its hash.
        """
        leaf, held = self._leaf, self._held
        wanted: set[int] = set()
        for offset, length in ranges:
            first, last = offset // leaf, (offset + length - 1) // leaf
            wanted.add(first)
            if first != last:
                wanted.update(range(first + 1, last + 1))
        missing = sorted(wanted.difference(held))
        if not missing:
            return
        if (len(held) + len(missing)) * leaf > CACHED_BYTES:
            for number in held.keys() - wanted:
                del held[number]
        nodes = self._level(0, missing)
        for at, data in zip(missing, self._read(missing, leaf, self._off, self._length), strict=True):
            start = (at & 255) << 4
            expected = nodes[at >> 8][start : start + 16]
            if blake3(data).digest(16) != expected:
                raise self._wrong(f"leaf {at}", self._off + at * leaf, expected, data)
            held[at] = data

    def _level(self, level: int, below: list[int]) -> dict[int, bytes]:
        """Nodes of one level, among them those with the hashes of what is ``below``, checked."""
        held = self._nodes[level]
        missing = sorted({number >> 8 for number in below}.difference(held))
        if not missing:
            return held
        above = self._level(level + 1, missing)
        start, size = self._levels[level]
        for at, data in zip(missing, self._read(missing, NODE_BYTES, start, size * HASH_BYTES), strict=True):
            place = (at & 255) << 4
            expected = above[at >> 8][place : place + 16]
            if blake3(data).digest(16) != expected:
                what = f"hash tree node {at} of level {level}"
                raise self._wrong(what, start + at * NODE_BYTES, expected, data)
            held[at] = data
        return held

    def _read(self, numbers: list[int], unit: int, off: int, length: int) -> list[bytes]:
        """Ascending pieces of ``unit`` bytes of what lies at ``off``; neighbours come in one read."""
        source, last = self._source, (length - 1) // unit
        if not source.remote and numbers[-1] - numbers[0] > len(numbers):
            # Mostly apart: one short read each.
            self.bytes_read += unit * (len(numbers) - 1) + min(unit, length - numbers[-1] * unit)
            read = source.read
            found = [read(off + at * unit, unit) for at in numbers if at != last]
            return found if numbers[-1] != last else [*found, read(off + last * unit, length - last * unit)]
        runs: list[Range] = []
        first = before = numbers[0]
        for number in numbers[1:]:
            if number != before + 1:
                runs.append((first, before + 1))
                first = number
            before = number
        runs.append((first, before + 1))
        ranges = [(off + lo * unit, min(hi * unit, length) - lo * unit) for lo, hi in runs]
        self.bytes_read += sum([size for _, size in ranges])
        parts = source.read_ranges(ranges) if source.remote else [source.read(*one) for one in ranges]
        return [part[at : at + unit] for part in parts for at in range(0, len(part), unit)]

    def _wrong(self, what: str, offset: int, expected: bytes, data: bytes) -> CorruptFooter:
        return CorruptFooter(
            self._source.name, what, offset=offset, expected=expected.hex(), got=hash16(data).hex()
        )
