"""A file written anew as if the persons that went had never had values: the level *canonical* of forgetting.

In the flow: the table's erase calls this where a page has no room to be erased in place, where files cannot be written over,
and where somebody asked for it. Rows that went keep their places, blank and marked deleted, so that row numbers hold; what
is blanked before it is encoded can move no encoding, width, dictionary or bound. So two files that differed in these
persons' values alone become the same bytes (given the same seed): the twin test. Rows that were deleted before go blank too.

How columns were stored is taken from the file: profile, erase key, personal columns, formats of quantised ones. Encodings
that the writer was told by name are chosen anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from headrace.storage import anatomy, exact
from headrace.storage.erase_file import erase_key_of, rows_of, seal_deleted
from headrace.storage.erasing import Mask
from headrace.storage.errors import CannotEraseInPlace
from headrace.storage.footer import Column
from headrace.storage.group_read import Group, joined
from headrace.storage.reader import File
from headrace.storage.select import PROFILES
from headrace.storage.writer import Writer, Written


def rewrite(
    source: Path,
    target: Path,
    subjects: pa.Array,
    *,
    seed: int | None = None,
    uuid: bytes | None = None,
) -> Written:
    """Write a file anew without some persons' values and without those of deleted rows.

    Args:
        source: the file.
        target: must not exist; synced when this returns, its folder is not.
        subjects: values of the erase key.
        seed, uuid: of the new file, as for ``Writer``.

    Returns:
        What the new file is known by; its erase epoch is one more than the old one's.

    Raises:
        NoEraseKey: the file has no key.
        CannotEraseInPlace: other rows would change.
    """
    with File(source) as file:
        gone = rows_of(file, erase_key_of(file), subjects)
        for number, mine in enumerate(gone):
            before = file.footer.deleted(number)
            if before is not None:
                gone[number] = mine | before
        columns = file.footer.columns(None)
        lossy = {column.name: kind for column in columns if (kind := _kind(file, column)) is not None}
        for quantise in (lossy, {name: kind for name, kind in lossy.items() if kind != "int8"}):
            _write(file, target, columns, gone, quantise, seed, uuid)
            if _same(file, target, columns, gone):
                return seal_deleted(target, gone, file.footer.trailer.erase_epoch + 1)
            target.unlink()
    raise CannotEraseInPlace(f"{source}: other rows would change when it is written anew; report this")


def _kind(file: File, column: Column) -> str | None:
    report = file.footer.report(column)
    return None if report is None or len(report.kinds) != 1 or report.kind == "exact" else report.kind


def _write(
    file: File,
    target: Path,
    columns: Sequence[Column],
    gone: Sequence[Mask],
    quantise: dict[str, str],
    seed: int | None,
    uuid: bytes | None,
) -> None:
    key = next((column.name for column in columns if column.erase_key), None)
    profile = anatomy.key_values(file).get("profile", "balanced")
    with Writer(
        target,
        file.schema(),
        erase_key=key,
        personal=[column.name for column in columns if column.personal and not column.erase_key],
        seed=seed,
        uuid=uuid,
        group_rows=file.footer.group_rows,
        profile=profile if profile in PROFILES else "balanced",
        quantise=quantise,
    ) as writer:
        schema = file.schema()
        for number, mask in enumerate(gone):
            arrays = _arrays(file, number, columns)
            blanked = [
                _blank(array, mask, column.nullable) for array, column in zip(arrays, columns, strict=True)
            ]
            writer.write(pa.RecordBatch.from_arrays(blanked, schema=schema))
        writer.close()


def _arrays(file: File, number: int, columns: Sequence[Column]) -> list[pa.Array]:
    """All rows of a group, deleted ones too."""
    group = Group(file, number, columns)  # pyright: ignore[reportArgumentType]
    return [joined(part.rows(0, group.n_rows)) for part in group.parts]


def _same(file: File, target: Path, columns: Sequence[Column], gone: Sequence[Mask]) -> bool:
    """Whether all other rows read as they did."""
    with File(target) as new:
        for number, mask in enumerate(gone):
            rows = pa.array(np.flatnonzero(~mask))
            ours = _arrays(new, number, new.footer.columns(None))
            for before, after in zip(_arrays(file, number, columns), ours, strict=True):
                if not exact.alike(exact.gathered([before], rows), exact.gathered([after], rows)):
                    return False
    return True


def _blank(array: pa.Array, mask: Mask, nullable: bool) -> pa.Array:
    if not mask.any():
        return array
    one = pa.nulls(1, array.type) if nullable else pa.array([empty(array.type)], array.type)
    rows = np.where(mask, len(array), np.arange(len(array)))
    return exact.gathered([array, one], pa.array(rows, pa.int64()))


def empty(type_: pa.DataType) -> object:
    """The value a row that went has in a column that may not be null.

    >>> empty(pa.struct([("a", pa.int8()), ("b", pa.list_(pa.string()))]))
    {'a': 0, 'b': []}
    """
    if pa.types.is_struct(type_):
        return {field.name: empty(field.type) for field in type_}
    if pa.types.is_fixed_size_list(type_):
        return [empty(type_.value_type)] * type_.list_size
    if pa.types.is_nested(type_):
        return []
    if pa.types.is_dictionary(type_):
        return empty(type_.value_type)
    if pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return ""
    if pa.types.is_fixed_size_binary(type_):
        return bytes(type_.byte_width)
    if pa.types.is_binary(type_) or pa.types.is_large_binary(type_) or pa.types.is_binary_view(type_):
        return b""
    if pa.types.is_boolean(type_):
        return False
    return pa.scalar(0, pa.int64()).cast(type_, safe=False).as_py() if pa.types.is_temporal(type_) else 0
