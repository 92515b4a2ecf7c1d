"""Big media beside a table: bytes in side files, and in the rows a small reference to each.

In the flow: a writer puts images or sound into a side file, stages rows that refer to them, and commits the rows; captions,
scores and previews stay in the rows, so that choosing rows reads none of it (Bullion's layout for multimodal data, CIDR
2025). The manifest names the side files of each data file: garbage collection keeps them, ``verify`` hashes them, and
compaction moves references only. A reference has a hash of its own, so what is fetched is what was put.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
from blake3 import blake3

from headrace.storage import durable
from headrace.storage.entropy import Entropy
from headrace.storage.errors import CorruptManifest
from headrace.storage.manifest import MEDIA, Attachment, DataFile
from headrace.storage.paths import inside
from headrace.storage.source import open_source

if TYPE_CHECKING:
    from headrace.storage.table import Table

REFERENCE = pa.struct(
    [("file", pa.string()), ("offset", pa.int64()), ("bytes", pa.int64()), ("blake3", pa.binary(16))]
)
"""Type of a column of references; null where a row has no media."""


@dataclass
class Side:
    """A side file as it is written."""

    name: str
    file: IO[bytes]
    hasher: Any
    offset: int = 0
    entry: Attachment | None = None

    def put(self, data: bytes) -> dict[str, Any]:
        """Add some bytes; returns the value of a ``REFERENCE``."""
        self.file.write(data)
        self.hasher.update(data)
        found = {
            "file": self.name,
            "offset": self.offset,
            "bytes": len(data),
            "blake3": blake3(data).digest(16),
        }
        self.offset += len(data)
        return found

    def of(self, staged: DataFile) -> DataFile:
        """A staged file whose rows refer to this one; commit it in its place."""
        if self.entry is None:
            raise ValueError(
                f"{self.name}: expected a side file that is closed, leave its block before committing"
            )
        return replace(staged, media=(*staged.media, self.entry))


@contextmanager
def side_file(table: Table) -> Iterator[Side]:
    """A new side file of a table; durable when the block ends, gone if it ends by an error."""
    store = table._log.store
    store.make(MEDIA)
    name = f"{MEDIA}/{Entropy(None).take(16).hex()}.bin"
    with store.staged(name) as path:
        try:
            with path.open("xb") as file:
                side = Side(name, file, blake3())
                yield side
                file.flush()
                durable.sync_file(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    store.sync(MEDIA)
    side.entry = Attachment(os.path.basename(name), name, side.offset, str(side.hasher.hexdigest()))  # noqa: PTH119


def fetch(table: Table, references: pa.Array | pa.ChunkedArray | Iterable[Any]) -> list[bytes | None]:
    """The bytes that some rows refer to, in their order; None for null.

    Raises:
        UnsafePath: a reference leads out of the table.
        CorruptManifest: the side file is missing, or holds other bytes there.
    """
    wanted = (
        references.to_pylist() if isinstance(references, pa.Array | pa.ChunkedArray) else list(references)
    )
    found: list[bytes | None] = [None] * len(wanted)
    by_file: dict[str, list[int]] = {}
    for at, reference in enumerate(wanted):
        if reference is not None:
            by_file.setdefault(reference["file"], []).append(at)
    for name, places in by_file.items():
        path = inside(table.path, name, MEDIA)
        try:
            source = open_source(path)
        except FileNotFoundError as error:
            raise CorruptManifest(f"{path}: media of the table, missing; restore it from a copy") from error
        with source:
            for at in places:
                reference = wanted[at]
                whole = (
                    0 <= reference["offset"] <= source.size - reference["bytes"] and reference["bytes"] >= 0
                )
                data = bytes(source.read(reference["offset"], reference["bytes"])) if whole else b""
                if blake3(data).digest(16) != reference["blake3"]:
                    raise CorruptManifest(
                        f"{path}: expected {reference['bytes']} bytes of hash {reference['blake3'].hex()} at "
                        f"{reference['offset']}, got others; restore it from a copy"
                    )
                found[at] = data
    return found
