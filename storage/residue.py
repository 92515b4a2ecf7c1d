"""Looks for persons in everything a table's folder holds: decodes what can be decoded, then scans the bytes.

In the flow: ``headrace erase verify``, after an erase, and with ``subjects`` that are still there as its own positive control.
Decoding comes first, since a packed or compressed value shows in no byte scan: erase keys and personal columns of every
row, deleted ones too, whole dictionaries, used or not, and the bounds of pages. The scan then looks in every file of the
folder for eight codings of each key: journals, manifests, attachments and what nobody lists. Keys of which a coding is
shorter than five bytes are not scanned for in that coding; chance would find them.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.storage import arrays
from headrace.storage.errors import StorageError
from headrace.storage.exact import plain
from headrace.storage.fetch import read_entries
from headrace.storage.footer import Column
from headrace.storage.group_read import Group, joined
from headrace.storage.logical import Leaf
from headrace.storage.reader import File
from headrace.storage.statistics import unpack

if TYPE_CHECKING:
    from headrace.storage.table import Table

SHORTEST = 5
_STEP = 8 << 20


@dataclass(frozen=True)
class Residue:
    """One place where a person still is: which file of the table, where in it, how it was found, and how often."""

    path: str
    where: str
    found_by: str
    """``decoded``, or the coding."""
    times: int


@dataclass(frozen=True)
class Searched:
    """What was looked at and found.

    Attributes:
        files, bytes: scanned.
        values: decoded and compared.
        residues: where the persons still are; none if they are gone.
        unreadable: files that are no data files but look like some, or damaged ones: they were scanned only.
    """

    files: int
    bytes: int
    values: int
    residues: tuple[Residue, ...]
    unreadable: tuple[str, ...]


def codings(key: object) -> dict[str, bytes]:
    """A key as it might lie in a file, by name of the coding; those too short to tell are left out.

    >>> sorted(codings(1_234_567_890_123))
    ['base64', 'big-endian', 'decimal', 'hex', 'little-endian', 'utf-16', 'varint', 'zigzag']
    """
    if isinstance(key, int):
        raw = key.to_bytes(8, "little", signed=key < 0)
        text = str(key)
        found = {
            "little-endian": raw.rstrip(b"\0") if key >= 0 else raw,
            "big-endian": raw[::-1].lstrip(b"\0") if key >= 0 else raw[::-1],
            "decimal": text.encode(),
            "utf-16": text.encode("utf-16-le"),
            "hex": f"{abs(key):x}".encode(),
            "base64": base64.b64encode(raw).rstrip(b"="),
            "varint": _varint(key % 2**64),
            "zigzag": _varint(((key << 1) ^ (key >> 63)) % 2**64),
        }
    else:
        raw = key if isinstance(key, bytes) else str(key).encode()
        found = {
            "utf-8": raw,
            "reversed": raw[::-1],
            "upper case": raw.upper(),
            "lower case": raw.lower(),
            "utf-16": raw.decode("utf-8", "replace").encode("utf-16-le"),
            "hex": raw.hex().encode(),
            "base64": base64.b64encode(raw).rstrip(b"=")[: len(raw) * 4 // 3],
            "percent": "".join(f"%{byte:02X}" for byte in raw).encode(),
        }
    return {name: data for name, data in found.items() if len(data) >= SHORTEST}


def search(table: Table, subjects: Iterable[object]) -> Searched:
    """Look for persons in a table's folder.

    Args:
        table: on a mounted file system.
        subjects: values of the erase key.
    """
    keys = list(dict.fromkeys(subjects))
    folder, found, unreadable = table.folder, list[Residue](), list[str]()
    n_files = n_bytes = n_values = 0
    patterns = [(coding, data) for key in keys for coding, data in codings(key).items()]
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        name = str(path.relative_to(folder))
        if path.suffix == ".hrc":
            try:
                residues, n = decoded(path, name, keys, table.personal)
            except (StorageError, OSError):
                unreadable.append(name)
            else:
                found += residues
                n_values += n
        for coding, times in scan(path, patterns):
            found.append(Residue(name, "bytes", coding, times))
        n_files, n_bytes = n_files + 1, n_bytes + path.stat().st_size
    return Searched(n_files, n_bytes, n_values, tuple(found), tuple(unreadable))


def decoded(
    path: Path, name: str, keys: Sequence[object], personal: Sequence[str]
) -> tuple[list[Residue], int]:
    """Where a data file's values, dictionaries and bounds are one of some keys; and how many were compared."""
    found, n = list[Residue](), 0
    with File(path) as file:
        columns = [c for c in file.footer.columns(None) if c.erase_key or c.personal or c.name in personal]
        for column in columns:
            if column.type.is_nested:
                continue
            wanted = _as_values(keys, column)
            if wanted is None:
                continue
            for values, where in _values(file, column):
                n += len(values)
                times = int(pc.sum(pc.is_in(values, value_set=wanted)).as_py() or 0)
                if times:
                    found.append(Residue(name, f"{where} of {column.name}", "decoded", times))
    return found, n


def _as_values(keys: Sequence[object], column: Column) -> pa.Array | None:
    try:
        return pa.array(keys, column.type.leaf.arrow)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return None  # of another type: no value of it can be one of these


def _values(file: File, column: Column) -> Iterator[tuple[pa.Array, str]]:
    leaf = column.type.leaf
    for number in range(file.footer.n_groups):
        group = Group(file, number, [column])  # pyright: ignore[reportArgumentType]
        rows = plain(joined(group.parts[0].rows(0, group.n_rows)), column.type.plain)
        yield (rows.flatten() if column.type.is_list else rows), f"rows of group {number}"
        chunk = file.footer.chunk(column, number)
        if chunk.dictionary is not None:
            yield (
                _array(read_entries(file.source, column, chunk.dictionary).values, leaf),
                f"dictionary of group {number}",
            )
        raw = file.footer.statistics(column, chunk)
        if raw is not None and leaf.dtype is not None and leaf.dtype.kind in "iu":
            bounds = [b for row in unpack(raw, column.type) for b in (row.low, row.high) if b is not None]
            yield pa.array(bounds, pa.int64()).cast(leaf.arrow, safe=False), f"bounds of group {number}"
    whole = file.footer.file_dictionary(column)
    if whole is not None:
        yield _array(read_entries(file.source, column, whole).values, leaf), "dictionary"


def _array(values: object, leaf: Leaf) -> pa.Array:
    return arrays.fixed(values, None, len(values), leaf) if isinstance(values, np.ndarray) else values


def scan(path: Path, patterns: Sequence[tuple[str, bytes]]) -> list[tuple[str, int]]:
    """How often each coding's bytes are in a file; codings that are not are left out."""
    longest = max((len(data) for _, data in patterns), default=1)
    counts: dict[str, int] = {}
    with path.open("rb") as file:
        tail = b""
        while part := file.read(_STEP):
            whole = tail + part
            for coding, data in patterns:
                times = whole.count(data) - tail.count(data)
                if times:
                    counts[coding] = counts.get(coding, 0) + times
            tail = whole[-(longest - 1) :] if longest > 1 else b""
    return sorted(counts.items())


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
