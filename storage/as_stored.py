"""Quantised columns as they are stored: fp16, bf16 and fp8 bit for bit, int8 as codes beside the numbers that scale them.

``reader`` puts a ``StoredAs`` on the columns asked for so; ``page_streams`` lets it decode their values, which are then
read, picked and joined like any other numbers; ``group_read`` hands out what ``finish`` makes of them. A column is
handed out as stored only where one format holds all of it: one that a bound has stored in several, and all that is
exact, comes converted. Values that a page holds exactly, because that is smaller, are rounded here as the writer would
have done. What a format's bits mean is ``encodings.cast``'s and ``encodings.int8``'s to say.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headrace.storage import arrays, typecode
from headrace.storage.encodings import CorruptStream, Encoding, cast, int8
from headrace.storage.encodings.cast import Cast
from headrace.storage.encodings.contract import BLOCK_VALUES, Array, Bytes
from headrace.storage.encodings.int8 import Int8
from headrace.storage.errors import TooLarge
from headrace.storage.logical import ColumnType, column_type
from headrace.storage.quantise import KINDS, Kind, can_quantise

if TYPE_CHECKING:
    from headrace.storage.columns import Column
    from headrace.storage.footer import Footer

FORMAT_KEY: Final = b"headrace.stored_as"
"""Metadata of a field: the format its values are in, one of ``quantise.KINDS``."""
TYPE_KEY: Final = b"headrace.type"
"""Metadata of a field: the type of the numbers they stand for."""

AFFINE: Final = pa.struct(
    [
        pa.field("code", pa.uint8(), nullable=False),
        pa.field("scale", pa.float32(), nullable=False),
        pa.field("zero", pa.float32(), nullable=False),
    ]
)
"""An int8 value: ``zero + scale * code``; codes 253, 254 and 255 are -inf, inf and NaN."""

_LEAVES: Final[dict[Kind, pa.DataType]] = {
    "fp16": pa.float16(),
    "bf16": pa.uint16(),
    "fp8_e4m3": pa.uint8(),
    "fp8_e5m2": pa.uint8(),
    "int8": pa.uint32(),  # block << 8 | code, until they are handed out
}
_MAX_BLOCKS: Final = 1 << 24
_LARGE: Final = 4


class StoredAs:
    """How one column's values are handed out as they are stored; safe to use from several threads."""

    def __init__(self, kind: Kind, exact: ColumnType) -> None:
        leaf = exact.leaf
        assert leaf.dtype is not None
        self.kind: Kind = kind
        self.exact, self.dtype = exact, leaf.dtype
        self.type = column_type(_with_leaf(exact.arrow, _LEAVES[kind]), "")
        """What pages are decoded to."""
        self._blocks = _Blocks()

    @property
    def memory_factor(self) -> int:
        """How much more memory values take than those of ``type``, until they have been handed out."""
        return _LARGE if self.kind == "int8" else 1

    def field(self, name: str, type_: pa.DataType, nullable: bool) -> pa.Field:
        """The field that values are handed out with which would come in ``type_``, or in its view, if converted."""
        leaf = AFFINE if self.kind == "int8" else _LEAVES[self.kind]
        metadata = {FORMAT_KEY: self.kind, TYPE_KEY: str(self.exact.leaf.arrow)}
        return pa.field(name, _with_leaf(type_, leaf), nullable, metadata)

    def decode(self, encoding: Encoding, payload: Bytes, out: Array) -> None:
        """As ``Encoding.decode``, but not converted; ``out`` is of ``type``'s leaf."""
        n = len(out)
        if self.kind == "int8":
            if encoding.id == Int8.id:
                codes, scales, zeros = Int8().stored(payload, n, self.dtype)
            else:
                codes, scales, zeros = int8.narrow(self._exact(encoding, payload, n))
            first = self._blocks.add(scales, zeros)
            out[:] = np.repeat(np.arange(first, first + len(scales), dtype=np.uint32), BLOCK_VALUES)[:n]
            out <<= np.uint32(8)
            out |= codes
        elif encoding.id == Cast.id:
            form, codes = Cast().stored(payload, n, self.dtype)
            self._fill(form, codes, out)
        else:
            self._fill(self.kind, cast.narrow(self._exact(encoding, payload, n), self.kind), out)

    def take(self, encoding: Encoding, payload: Bytes, n: int, at: NDArray[np.int64], out: Array) -> int:
        """As ``Encoding.take``, but not converted."""
        if self.kind != "int8" and encoding.id == Cast.id:
            form, codes, blocks = Cast().take_stored(payload, n, self.dtype, at)
            self._fill(form, codes, out)
            return blocks
        if encoding.id == Int8.id:
            codes, scales, zeros, blocks = Int8().take_stored(payload, n, self.dtype, at)
            first = self._blocks.add(scales, zeros)
            out[:] = (first + at // BLOCK_VALUES).astype(np.uint32) << np.uint32(8) | codes
            return blocks
        whole = np.empty(n, out.dtype)
        self.decode(encoding, payload, whole)
        out[:] = whole[at]
        return -(-n // BLOCK_VALUES)

    def finish(self, array: pa.Array) -> pa.Array:
        """Rows in ``type`` or its view as they are handed out: for int8 each code gets its scale and zero."""
        return array if self.kind != "int8" else self._affine(array)

    def _affine(self, array: pa.Array) -> pa.Array:
        if not typecode.is_list(array.type):
            return self._blocks.resolved(array)
        items = self._affine(array.values)
        type_ = _with_leaf(array.type, AFFINE)
        buffers = array.buffers()[: 1 if pa.types.is_fixed_size_list(type_) else _n_buffers(type_)]
        return pa.Array.from_buffers(type_, len(array), buffers, offset=array.offset, children=[items])

    def _exact(self, encoding: Encoding, payload: Bytes, n: int) -> Array:
        values = np.empty(n, self.dtype)
        encoding.decode(payload, values)
        return values

    def _fill(self, form: str, codes: Array, out: Array) -> None:
        if form != self.kind:
            raise CorruptStream(f"cast: expected values in {self.kind}, as the footer says, found {form}")
        out.view(codes.dtype)[:] = codes


class _Blocks:
    """Scales and zeros of the int8 blocks met so far, each under a number; 0 is what null slots refer to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._table = np.zeros((2, 64), np.float32)
        self._n = 1

    def add(self, scales: Array, zeros: Array) -> int:
        """The number of the first of these blocks; the others follow."""
        with self._lock:
            first, end = self._n, self._n + len(scales)
            if end > _MAX_BLOCKS:
                raise TooLarge(
                    f"{end} blocks of int8 values in one read, at most {_MAX_BLOCKS} fit; read fewer rows at once"
                )
            if end > self._table.shape[1]:
                table = np.zeros((2, 2 * end), np.float32)
                table[:, :first] = self._table[:, :first]
                self._table = table
            self._table[0, first:end], self._table[1, first:end] = scales, zeros
            self._n = end
            return first

    def resolved(self, array: pa.Array) -> pa.Array:
        """uint32 of numbers and codes as ``AFFINE`` structs."""
        valid = arrays.validity(array) if array.null_count else None
        packed = arrays.numbers(array, np.dtype("u4"))
        codes, blocks = packed.astype(np.uint8), packed >> np.uint32(8)
        with self._lock:
            scales, zeros = self._table[0][blocks], self._table[1][blocks]
        children = [
            pa.Array.from_buffers(field.type, len(array), [None, pa.py_buffer(values)])
            for field, values in zip(AFFINE, (codes, scales, zeros), strict=True)
        ]
        return pa.Array.from_buffers(AFFINE, len(array), [arrays.bitmap(valid)], children=children)


def kinds(footer: Footer, columns: Iterable[Column]) -> dict[str, Kind]:
    """The columns that one format holds all values of, and that format."""
    found: dict[str, Kind] = {}
    for column in columns:
        report = footer.report(column)
        if report is None or report.kind not in KINDS or not can_quantise(column.type):
            continue
        found[column.name] = report.kind
    return found


def agreed(files: Iterable[Mapping[str, Kind]]) -> dict[str, Kind]:
    """The columns that all files hold in the same format."""
    found: dict[str, Kind] | None = None
    for one in files:
        found = dict(one) if found is None else {k: v for k, v in found.items() if one.get(k) == v}
    return found or {}


def marked(footer: Footer, columns: Sequence[Column], wanted: bool | Collection[str]) -> list[Column]:
    """Columns that are read as they are stored where that is wanted, by name or all, and possible."""
    some = [column for column in columns if wanted is True or (wanted and column.name in wanted)]
    known = kinds(footer, some)

    def of(column: Column) -> Column:
        if column.name not in known:
            return column
        stored = StoredAs(known[column.name], column.type)
        return column._replace(type=stored.type, stored=stored)

    return [of(column) for column in columns]


def code_of(kind: Kind, value: float) -> int:
    """The bits that stand for a number in bf16 or fp8."""
    assert kind in ("bf16", "fp8_e4m3", "fp8_e5m2")
    return int(cast.narrow(np.array([value], np.float64), kind)[0])


def _with_leaf(arrow: pa.DataType, leaf: pa.DataType) -> pa.DataType:
    """A leaf, or a list of one, of other values."""
    if not typecode.is_list(arrow):
        return leaf
    item = arrow.value_field.with_type(leaf)
    if pa.types.is_fixed_size_list(arrow):
        return pa.list_(item, arrow.list_size)
    made: Any = {
        typecode.LIST: pa.list_,
        typecode.LARGE_LIST: pa.large_list,
        typecode.LIST_VIEW: pa.list_view,
        typecode.LARGE_LIST_VIEW: pa.large_list_view,
    }[typecode.number(arrow) or 0]
    return made(item)


def _n_buffers(arrow: pa.DataType) -> int:
    """Buffers of a list of variable length itself: validity, offsets, and of a view sizes."""
    return 3 if pa.types.is_list_view(arrow) or pa.types.is_large_list_view(arrow) else 2
