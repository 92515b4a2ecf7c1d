"""Nested arrays as flat columns, and back: what a struct, or a list of other than leaves, is cut into.

Each type of the tree is a *node* with a flat column of its own, in preorder: a struct has one u8 per row that is not
null, a list of a nested type the number of items per row that is not null as u32 (a fixed-size one as a struct), and a
leaf or a list of leaves lies as it would at the top. A child has no rows for its parent's nulls: its rows are the
parent's valid rows (struct) or all their items (list). So every level says its own nulls once, pages know nothing of
nesting, and nothing is repeated; Dremel's levels (Melnik et al., VLDB 2010) would need one stream less for deep paths,
but a decoder that runs through all of them. Page k of a child holds what page k of its parent refers to.

Arrays here are in their plain form (``exact.plain``); what type they come back as is ``exact.restore``'s part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace.storage.arrays import bitmap, numbers, validity
from headrace.storage.errors import SchemaMismatch
from headrace.storage.exact import Fail, list_parts, rows_of
from headrace.storage.logical import ColumnType

_T = TypeVar("_T")
Rows = NDArray[np.int64]


def nodes(type_: ColumnType) -> list[ColumnType]:
    """The column's own type, then its children's, each followed by its own: preorder. One for a flat type.

    >>> from headrace.storage.logical import column_type
    >>> len(nodes(column_type(pa.struct([("a", pa.int8()), ("b", pa.list_(pa.struct([("c", pa.string())])))]), "x")))
    5
    """
    return [type_, *(node for child in type_.children for node in nodes(child))]


def names(type_: ColumnType) -> list[tuple[str, bool, int]]:
    """Of each node: its name, whether it may be null, and which node is its parent; the first one's are "", True, -1."""
    found = [("", True, -1)]

    def add(parent: int, node: ColumnType) -> None:
        for index, child in enumerate(node.children):
            field = node.arrow.field(index)
            found.append((field.name, field.nullable, parent))
            add(len(found) - 1, child)

    add(0, type_)
    return found


def shred(array: pa.Array, type_: ColumnType) -> list[pa.Array]:
    """The flat arrays of a plain array, one for each of ``nodes(type_)``.

    Args:
        array: of ``type_.plain``; slices are fine.
    """
    if not type_.is_nested:
        return [array]
    if not _is_struct(type_):
        valid, lengths, items = list_parts(array)
        if type_.size is not None:
            return [_presence(array), *shred(items, type_.children[0])]
        own = pa.Array.from_buffers(
            pa.uint32(), len(array), [bitmap(valid), pa.py_buffer(lengths.astype(np.uint32))]
        )
        return [own, *shred(items, type_.children[0])]
    present = array.drop_null() if array.null_count else array
    found = [_presence(array)]
    for index, child in enumerate(type_.children):
        found += shred(present.field(index), child)
    return found


def boundaries(flat: Sequence[pa.Array], type_: ColumnType, at: Rows) -> list[Rows]:
    """Where to cut each node's array so that its parts belong to the same parts of the column.

    Args:
        flat: as from ``shred``.
        at: int64[n_parts + 1], ascending: rows of the column at which to cut, from 0 to its length.
    """
    found: list[Rows] = []
    arrays = iter(flat)

    def visit(node: ColumnType, at: Rows) -> None:
        own = next(arrays)
        found.append(at)
        for child in node.children:
            visit(child, _ends(own, node)[at])

    visit(type_, at)
    return found


def assemble(flat: Sequence[pa.Array], type_: ColumnType, fail: Fail) -> pa.Array:
    """The reverse of ``shred``.

    Args:
        flat: one array per node, all of the same rows of the column.
        fail: called with (what, expected, got) if a child has not the rows its parent refers to; raises.
    """
    return _assemble(iter(flat), type_, None, fail)


def _assemble(flat: Iterator[pa.Array], type_: ColumnType, n_rows: int | None, fail: Fail) -> pa.Array:
    own = next(flat)
    if n_rows is not None and len(own) != n_rows:
        fail("rows of a child column", n_rows, len(own))
    if not type_.is_nested:
        return own
    n, ends = len(own), _ends(own, type_)
    mask = validity(own) if own.null_count else None
    if _is_struct(type_):
        rows = None if mask is None else rows_of(mask)
        children = [_assemble(flat, child, int(ends[-1]), fail) for child in type_.children]
        if rows is not None:
            children = [child.take(rows) for child in children]
        return pa.Array.from_buffers(type_.plain, n, [bitmap(mask)], children=children)
    if ends[-1] > 2**31 - 1:
        fail("items of a list column", "less than 2^31", int(ends[-1]))
    items = _assemble(flat, type_.children[0], int(ends[-1]), fail)
    buffers = [bitmap(mask), pa.py_buffer(ends.astype(np.int32))]
    return pa.Array.from_buffers(type_.plain, n, buffers, children=[items])


def _ends(own: pa.Array, type_: ColumnType) -> Rows:
    """int64[n + 1]: how many rows of its children the first i rows of a node refer to."""
    n = len(own)
    ends = np.zeros(n + 1, np.int64)
    if _is_struct(type_) or type_.size is not None:
        each = 1 if type_.size is None else type_.size
        if not own.null_count:
            return np.arange(n + 1, dtype=np.int64) * each
        np.cumsum(validity(own), out=ends[1:])
        return ends * each
    np.cumsum(numbers(own.fill_null(0), np.dtype(np.uint32)), out=ends[1:])
    return ends


def refuse_nulls(flat: Sequence[pa.Array], type_: ColumnType, name: str) -> None:
    """Nothing, unless a child or item that may not be null is.

    Raises:
        SchemaMismatch: naming the path and the number of nulls.
    """
    described = names(type_)
    paths = [name]
    for own, node, (label, nullable, parent) in zip(flat, nodes(type_), described, strict=True):
        path = name if parent < 0 else f"{paths[parent]}.{label}"
        if parent >= 0:
            paths.append(path)
        nulls = 0 if nullable else own.null_count
        if not nulls and node.is_list and not node.arrow.value_field.nullable:
            path, nulls = f"{path}.{node.arrow.value_field.name}", own.flatten().null_count
        if nulls:
            raise SchemaMismatch(
                f"rows do not fit the schema: {path!r} has {nulls} nulls, expected none; fill them or make it nullable"
            )


def _is_struct(type_: ColumnType) -> bool:
    return bool(pa.types.is_struct(type_.arrow))


def _presence(array: pa.Array) -> pa.Array:
    mask = bitmap(validity(array)) if array.null_count else None
    return pa.Array.from_buffers(pa.uint8(), len(array), [mask, pa.py_buffer(bytes(len(array)))])
