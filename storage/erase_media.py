"""Media of persons in side files: which bytes their rows refer to, and zeros written over those.

In the flow: hiding rows notes what they refer to beside them (``forgotten``), since compaction may drop the rows before anybody
erases; an erase then writes zeros over it, where it lies, and the new hash of the side file goes into the same version. Zeros can be
written twice, so what was killed is done again by the next erase of the same persons, and there is no journal. Bytes that a row
of somebody else refers to stay, whoever referred to them first.

What a side file still tells afterwards: where something was, and how long it was.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from blake3 import blake3
from numpy.typing import NDArray

from headrace.storage import durable, erase_file
from headrace.storage.erasing import DISK_BLOCK
from headrace.storage.footer import Column
from headrace.storage.forgotten import merged
from headrace.storage.group_read import Group, joined
from headrace.storage.manifest import DATA, MEDIA, Attachment, DataFile
from headrace.storage.media import REFERENCE
from headrace.storage.paths import inside
from headrace.storage.reader import File

if TYPE_CHECKING:
    from headrace.storage.table import Table

Range = tuple[int, int]
"""(offset, bytes) in a side file."""
Ranges = Mapping[str, tuple[Range, ...]]
"""By name of the side file."""
_STEP = 8 << 20


def referred_to(table: Table, entry: DataFile, keys: pa.Array) -> dict[object, dict[str, set[Range]]]:
    """By person, what their rows of one file refer to; rows that are hidden count, deleted ones are blank."""
    found: dict[object, dict[str, set[Range]]] = {}
    if not entry.media:
        return found
    with File(inside(table.path, entry.path, DATA)) as file:
        key = erase_file.erase_key_of(file)
        whose, masks = list(erase_file.keys_of(file, key)), erase_file.rows_of(file, key, keys)
    for number, array in _columns(table, entry, [mask.any() for mask in masks]):
        mine = pa.array(masks[number])
        for person, value in zip(
            whose[number].filter(mine).to_pylist(), array.filter(mine).to_pylist(), strict=True
        ):
            for one in value if isinstance(value, list) else [value]:
                if one is not None:
                    ranges = found.setdefault(person, {}).setdefault(one["file"], set())
                    ranges.add((one["offset"], one["bytes"]))
    return found


def zero(
    table: Table, wanted: Ranges, keys: pa.Array, entries: Sequence[DataFile], *, dry_run: bool = False
) -> list[tuple[Attachment, int, int]]:
    """Write zeros over what nobody but some persons refers to.

    Args:
        table: on a mounted file system.
        wanted: what their rows referred to.
        keys: the persons.
        entries: every kept file.
        dry_run: only say what would be written.

    Returns:
        By side file: what it is known by now (of a dry run, with no hash), disk blocks, and bytes that were written.
    """
    found = []
    for name, ranges in sorted(wanted.items()):
        path = Path(str(inside(table.folder, name, MEDIA)))
        if not path.exists():
            continue  # collected with the versions that named it
        left = _without(ranges, _others(table, name, keys, entries))
        if not dry_run:
            _write_zeros(path, left)
        blocks = {
            block
            for start, stop in left
            for block in range(start // DISK_BLOCK, (stop - 1) // DISK_BLOCK + 1)
        }
        size = path.stat().st_size
        entry = Attachment(path.name, name, size, "" if dry_run else _hash(path))
        found.append((entry, len(blocks), sum(stop - start for start, stop in left)))
    return found


def _others(table: Table, name: str, keys: pa.Array, entries: Sequence[DataFile]) -> list[NDArray[np.int64]]:
    """int64[n, 2] each: first byte and the one after the last of what rows of others refer to in a side file."""
    found = []
    for entry in entries:
        if all(side.path != name for side in entry.media):
            continue
        with File(inside(table.path, entry.path, DATA)) as file:
            masks = erase_file.rows_of(file, erase_file.erase_key_of(file), keys)
            for number, mine in enumerate(masks):
                gone = file.footer.deleted(number)
                masks[number] = ~mine if gone is None else ~(mine | gone)
        for number, array in _columns(table, entry, [mask.any() for mask in masks]):
            kept = array.filter(pa.array(masks[number]))
            flat = (kept if pa.types.is_struct(kept.type) else pc.list_flatten(kept)).drop_null()
            here = flat.filter(pc.equal(pc.struct_field(flat, "file"), name))
            start, size = (
                np.asarray(pc.struct_field(here, part).fill_null(0)) for part in ("offset", "bytes")
            )
            found.append(np.stack([start, start + size], axis=1))
    return found


def _columns(
    table: Table, entry: DataFile, groups: Sequence[bool | np.bool_]
) -> Iterator[tuple[int, pa.Array]]:
    """Row group by row group: every column of references that a file has, or a family of it; deleted rows too."""
    for name in (entry.path, *(family.path for family in entry.families)):
        with File(inside(table.path, name, DATA)) as file:
            columns = [column for column in file.footer.columns(None) if _refers(column)]
            for number in range(file.footer.n_groups) if columns else ():
                if groups[number]:
                    group = Group(file, number, columns)  # pyright: ignore[reportArgumentType]
                    for part in group.parts:
                        yield number, joined(part.rows(0, group.n_rows))


def _refers(column: Column) -> bool:
    type_: Any = column.type.arrow
    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        type_ = type_.value_type
    return bool(type_ == REFERENCE)


def _without(ranges: Iterable[Range], others: Sequence[NDArray[np.int64]]) -> list[Range]:
    """(first, behind the last) of what some ranges cover and no other does, in order and apart."""
    taken = np.concatenate(others) if others else np.zeros((0, 2), np.int64)
    taken = taken[np.argsort(taken[:, 0], kind="stable")]
    reach = np.maximum.accumulate(taken[:, 1]) if len(taken) else taken[:, 1]
    found: list[Range] = []
    for offset, size in sorted(ranges):
        at = max(offset, found[-1][1]) if found else offset
        stop = offset + size
        for first, last in taken[np.searchsorted(reach, at, side="right") :].tolist():
            if first >= stop:
                break
            if first > at:
                found.append((at, first))
            at = max(at, last)
        if at < stop:
            found.append((at, stop))
    return found


def _write_zeros(path: Path, ranges: Sequence[Range]) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        size = os.fstat(fd).st_size
        for start, stop in ranges:
            for at in range(start, min(stop, size), _STEP):
                os.pwrite(fd, bytes(min(_STEP, stop - at, size - at)), at)
        durable.sync_file(fd)
    finally:
        os.close(fd)


def _hash(path: Path) -> str:
    hasher = blake3()
    hasher.update_mmap(path)
    return str(hasher.hexdigest())


def clear_staged(
    table: Table, entry: DataFile, rows: Mapping[object, Mapping[str, set[Range]]], keys: pa.Array
) -> DataFile:
    """A file that nobody reads yet, after zeros were written over what some persons' rows of it refer to."""
    now = {side.path: side for side, *_ in zero(table, merged(rows.values()), keys, [entry])}
    return replace(entry, media=tuple(now.get(side.path, side) for side in entry.media))


__all__ = ["Range", "Ranges", "clear_staged", "referred_to", "zero"]
