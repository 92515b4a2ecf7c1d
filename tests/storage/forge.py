"""Files changed on purpose with every hash made right again: what a hostile writer, and not an accident, would leave."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from headrace.storage import layout, leaves
from headrace.storage.layout import SECTION, TRAILER_SLOT_BYTES, Trailer, hash16

ROWS = {
    layout.META: layout.META_ROW,
    layout.NAME_INDEX: layout.NAME_SLOT,
    layout.COLUMN: layout.COLUMN_ROW,
    layout.CHUNK: layout.CHUNK_ROW,
    layout.PAGE: layout.PAGE_ROW,
    layout.DICT: layout.DICT_ROW,
}


class Forged:
    """A file in memory whose rows can be changed; ``bytes()`` makes pages, tree, root and trailers match again."""

    def __init__(self, raw: bytes) -> None:
        self.raw = bytearray(raw)
        found = layout.parse_trailer(
            bytes(raw[-TRAILER_SLOT_BYTES : -TRAILER_SLOT_BYTES + layout.TRAILER.size])
        )
        assert found is not None
        self.trailer: Trailer = found
        self.sections: dict[int, tuple[int, int]] = {
            int(row["id"]): (int(row["off"]), int(row["len"])) for row in self.directory()
        }

    def view(self, off: int, n: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Rows of the file, writeable."""
        return np.frombuffer(self.raw, dtype, count=n, offset=off)

    def directory(self) -> NDArray[Any]:
        """The section directory."""
        return self.view(self.trailer.footer_off, self.trailer.n_sections, SECTION)

    def rows(self, section: int) -> NDArray[Any]:
        """A section's rows."""
        off, length = self.sections[section]
        return self.view(off, length // ROWS[section].itemsize, ROWS[section])

    def patch(self, off: int, data: bytes) -> None:
        """Overwrite bytes anywhere."""
        self.raw[off : off + len(data)] = data

    def header_features(self, bits: int) -> None:
        """Set the header's required features."""
        self.patch(8, bits.to_bytes(8, "little"))
        self.patch(56, blake3(bytes(self.raw[:56])).digest(length=8))

    def bytes(self) -> bytes:
        """The file, every hash recomputed."""
        size = len(self.raw)
        for section in (layout.PAGE, layout.DICT):
            for row in self.rows(section):
                off, used = int(row["off"]), int(row["used_len"])
                if off + used <= size:
                    row["hash"] = np.void(hash16(bytes(self.raw[off : off + used])))
        off, length = self.trailer.footer_off, self.trailer.footer_len
        features = int.from_bytes(self.raw[8:16], "little")
        levels = leaves.build(bytes(self.raw[off : off + length]), leaves.leaf_bytes(features))
        self.patch(self.trailer.tree_off, b"".join(levels))
        unrooted = replace(self.trailer, root=bytes(32))
        root = layout.root_hash(bytes(self.raw[:64]), unrooted, levels[-1])
        copy = replace(self.trailer, root=root).pack()
        for at in (size - 2 * TRAILER_SLOT_BYTES, size - TRAILER_SLOT_BYTES):
            self.patch(at, copy)
        return bytes(self.raw)


def hostile(width_bytes: int, honest: int, remaining: int) -> Iterator[int]:
    """Numbers that break careless arithmetic, in an unsigned field of that width."""
    top = 2 ** (8 * width_bytes) - 1
    wanted = {0, 1, top, top - 1, 2**31, 2**32 - 1, 2**63, remaining + 1, honest + 1, max(honest - 1, 0)}
    yield from sorted(number for number in wanted if number <= top and number != honest)
