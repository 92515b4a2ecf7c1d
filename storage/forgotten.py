"""Who a table has been told to forget: rows hidden until their bytes are gone, and a salted denylist against their return.

In the flow: one small file that the newest manifest names and every reader and writer of the table looks at, whatever version
it shows. It holds row numbers by file (roaring bitmaps) and keyed digests of the erased keys, no key itself; the key of the
digests, the salt, lies in the same file, so a digest can be tested by whoever may read the table and guesses the id: it
keeps ids out of sight and out of byte scans, it is no secret from the table's owner.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from blake3 import blake3
from numpy.typing import NDArray
from pyroaring import BitMap

from headrace.storage.errors import CorruptManifest
from headrace.storage.manifest import ATTACHMENTS, Attachment, digest
from headrace.storage.paths import inside

if TYPE_CHECKING:
    from headrace.storage.objects import Place
    from headrace.storage.table import Table

DIGEST_BYTES, SALT_BYTES = 16, 32
NAME = "forgotten"


@dataclass(frozen=True)
class Forgotten:
    """What the file says.

    Attributes:
        salt: key of the digests.
        digests: of the erased persons' keys, each ``DIGEST_BYTES`` long, one behind the other, ascending.
        rows: by file, a serialised roaring bitmap of the rows that are hidden and not yet erased.
        changed_at: the version that last added persons; files staged before it may still hold rows of theirs.
        epochs: erase epoch and root by file, of files that were erased in place and that only older versions list, whose
            manifests say what they were before; of side files of media 0 and their hash.
        media: by digest in hex and side file, the bytes (offset, length) that hidden rows refer to, until they are zeros.
    """

    salt: bytes
    digests: bytes = b""
    rows: Mapping[str, bytes] = field(default_factory=dict)
    changed_at: int = 0
    epochs: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    media: Mapping[str, Mapping[str, tuple[tuple[int, int], ...]]] = field(default_factory=dict)

    @cached_property
    def _known(self) -> frozenset[bytes]:
        step = DIGEST_BYTES
        return frozenset(self.digests[at : at + step] for at in range(0, len(self.digests), step))

    def __len__(self) -> int:
        return len(self.digests) // DIGEST_BYTES

    def of(self, key: object) -> bytes:
        """The digest of one key, of whatever type."""
        form = "t" + key if isinstance(key, str) else "b" + key.hex() if isinstance(key, bytes) else f"n{key}"
        return blake3(form.encode(), key=self.salt).digest(DIGEST_BYTES)

    def with_persons(self, keys: Iterable[object], version: int) -> Forgotten:
        """These persons are forgotten too, from a version on."""
        known = self._known | {self.of(key) for key in keys}
        return replace(self, digests=b"".join(sorted(known)), changed_at=version)

    def hiding(self, rows: Mapping[str, BitMap]) -> Forgotten:
        """Hide rows of files, beside those hidden already."""
        merged = dict(self.rows)
        for path, mine in rows.items():
            held = BitMap.deserialize(merged[path]) if path in merged else BitMap()
            merged[path] = (held | mine).serialize()
        return replace(self, rows=merged)

    def erased(self, path: str, now: str, deleted: BitMap) -> Forgotten:
        """Of a file, that is called ``now`` from here on, some hidden rows are deleted; others stay hidden."""
        rows = dict(self.rows)
        if path in rows:
            left = BitMap.deserialize(rows.pop(path)) - deleted
            if left:
                rows[now] = left.serialize()
        return replace(self, rows=rows)

    def without(self, paths: Collection[str]) -> Forgotten:
        """Files are gone, and with them what was hidden of theirs."""
        return replace(
            self,
            rows={path: mine for path, mine in self.rows.items() if path not in paths},
            epochs={path: epoch for path, epoch in self.epochs.items() if path not in paths},
        )

    def owing(self, rows: Mapping[object, Mapping[str, set[tuple[int, int]]]]) -> Forgotten:
        """Rows of these persons refer to bytes of side files that have to become zeros."""
        media = {digest: dict(mine) for digest, mine in self.media.items()}
        for key, mine in rows.items():
            one = self.of(key).hex()
            media[one] = merged([media.get(one, {}), mine])
        return replace(self, media=media)

    def owed(self, keys: Iterable[object]) -> dict[str, tuple[tuple[int, int], ...]]:
        """By side file, what rows of these persons referred to."""
        return merged(self.media.get(self.of(key).hex(), {}) for key in (keys if self.media else ()))

    def paid(self, keys: Iterable[object]) -> Forgotten:
        """Those bytes are zeros by now."""
        done = {self.of(key).hex() for key in keys} if self.media else set[str]()
        return replace(
            self, media={digest: mine for digest, mine in self.media.items() if digest not in done}
        )

    def at_epochs(self, epochs: Mapping[str, tuple[int, str]]) -> Forgotten:
        """Files that only older versions list have these erase epochs and roots by now."""
        return replace(self, epochs={**self.epochs, **epochs})

    def returning(self, keys: pa.Array) -> NDArray[np.bool_]:
        """bool[rows]: which of some keys are those of forgotten persons."""
        known = self._known
        encoded = pc.dictionary_encode(keys)
        codes = np.asarray(encoded.indices.fill_null(-1))
        ours = np.array(
            [key is not None and self.of(key) in known for key in encoded.dictionary.to_pylist()], np.bool_
        )
        found: NDArray[np.bool_] = np.append(ours, False)[codes]
        return found


def merged(
    parts: Iterable[Mapping[str, Iterable[tuple[int, int]]]],
) -> dict[str, tuple[tuple[int, int], ...]]:
    """By side file, what any of some parts refers to, in order."""
    found: dict[str, set[tuple[int, int]]] = {}
    for part in parts:
        for name, ranges in part.items():
            found.setdefault(name, set()).update(ranges)
    return {name: tuple(sorted(ranges)) for name, ranges in found.items()}


_FORGOTTEN = msgspec.msgpack.Decoder(Forgotten)


def fresh() -> Forgotten:
    """Nobody is forgotten yet."""
    return Forgotten(os.urandom(SALT_BYTES))


def of(table: Table) -> Forgotten:
    """Who a table was told to forget, nobody if there was none."""
    known = table.forgotten()
    return fresh() if known is None else known  # pyright: ignore[reportReturnType]


def pack(forgotten: Forgotten) -> bytes:
    """The file's bytes."""
    return msgspec.msgpack.encode(forgotten)


def read(root: Place, entry: Attachment) -> Forgotten:
    """What the file that a manifest names says.

    Raises:
        CorruptManifest: it is missing or damaged; nothing is read, since rows that must be hidden would be shown.
    """
    path = inside(root, entry.path, ATTACHMENTS)
    data = path.read_bytes() if path.is_file() else b""
    if digest(data) != entry.blake3:
        raise CorruptManifest(
            f"{path}: says whose rows are hidden and is missing or damaged: expected {entry.bytes} bytes of hash {entry.blake3}, "
            f"got {len(data)} of {digest(data)}; restore it from a copy"
        )
    return _parsed(data)


@lru_cache(maxsize=8)
def _parsed(data: bytes) -> Forgotten:
    return _FORGOTTEN.decode(data)
