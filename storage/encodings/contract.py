"""What an encoding must do, and what it may know about values before one is chosen.

An encoding turns a *stream*, a flat array without nulls, into a *payload*, a run of bytes that needs nothing else to
be read back but the number of values and their dtype, which the page knows. The writer counts `Stats` once (`counting`),
`headrace.storage.select` compares sizes, one encoding writes; the reader looks the encoding up by its wire id and
lets it fill an array of its own.

Floats are never compared as numbers here: they are streams of their bit patterns, so NaN payloads and -0.0 come back
bit for bit. All bytes are little-endian. Nulls, lists, strings and checksums belong to the page, not to encodings.
The shape of this contract follows Vortex (one folder per idea, choice elsewhere) and zarr's codecs (frozen, stateless).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from headrace.storage.encodings.errors import CannotEncode, CannotErase, CorruptStream, UnsupportedArray

Array = NDArray[Any]
Bytes = NDArray[np.uint8]

DTYPES: Final = tuple(
    np.dtype(name)
    for name in (
        *("int8", "int16", "int32", "int64"),
        *("uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "bool"),
    )
)

_DTYPES: Final = frozenset(DTYPES)

BLOCK_VALUES: Final = 1024
"""The unit of bit-packing and of its base: 64 rows of 16 lanes, see `bitpack`."""

DISTINCT_CAP: Final = 65_536
"""A dictionary with more entries than a row group has rows saves nothing, so counting stops here."""

MAX_VALUES: Final = 2**32 - 1
"""Counts are written as u32."""

MAX_DEPTH: Final = 3
"""Encodings within each other, the outermost included."""


@dataclass(frozen=True, slots=True)
class Stats:
    """What `counting.stats` counted about one stream; sizes are computed from this alone.

    `min` and `max` are in the order of `ordered(values)`: numbers for integers, 0 and 1 for bools, bit patterns for
    floats. They say how far apart stored integers lie and are not meant for filters.
    """

    n: int
    """Number of values."""
    dtype: np.dtype[Any]
    min: int | None
    """Smallest value; None when n is 0."""
    max: int | None
    """Largest value; None when n is 0."""
    n_runs: int
    """Number of maximal runs of equal values; 0 when n is 0."""
    n_distinct: int | None
    """Exact number of distinct values, or None when above `DISTINCT_CAP` or not counted."""
    width_bits: int
    """Bits of the widest 1,024-value block's range (max - min), 0..64."""
    bit_lengths: tuple[int, ...] | None = None
    """[k]: how many values are k bits above their block's smallest, k = 0..width_bits; None when not counted."""


Child: TypeAlias = Callable[[Array], tuple[int, bytes]]
"""Writes a stream that is part of another: values to wire id and payload. The cascade decides with which encoding."""


class Encoding(ABC):
    """One way to write a stream. Instances hold no state and are safe to share between threads.

    An encoding may be made of *children*, streams of its own that lie in its payload (`nested`): what writes them is
    the caller's choice, so encodings compose. At most `MAX_DEPTH` lie within each other.
    """

    id: ClassVar[int]
    """Wire id, 0..255, permanent."""
    name: ClassVar[str]
    """Word used in plans, errors and tools."""
    in_place: ClassVar[bool] = False
    """Whether `erase` can overwrite single values where they lie, if all children can."""

    @abstractmethod
    def can_encode(self, stats: Stats) -> bool:
        """Whether `encode` accepts values with these stats."""

    @abstractmethod
    def size(self, stats: Stats) -> int | None:
        """Payload bytes that `encode` will write, exact unless the class documents a bound; None if only a trial tells."""

    @abstractmethod
    def encode(self, values: Array, child: Child | None = None) -> bytes:
        """Write one stream.

        Args:
            values: any 1-D array with a dtype in `DTYPES`.
            child: writes the streams that this one is made of; None bit-packs them. Encodings without children ignore it.

        Raises:
            UnsupportedArray: another shape or dtype, or more than `MAX_VALUES` values.
            CannotEncode: `can_encode` is False for these values.
        """

    @abstractmethod
    def decode(self, payload: Bytes, out: Array, depth: int = 0) -> None:
        """Fill `out`, which the caller owns, with the stream's values.

        Every length, width and count is checked against the bytes present before any value is written. No memory
        is taken that `out` or the payload does not justify.

        Args:
            payload: uint8[n_bytes], exactly what `encode` returned; may be read-only and at any alignment.
            out: 1-D contiguous writeable array, as long as the stream and of its dtype.
            depth: how many encodings this one lies in.

        Raises:
            CorruptStream: the payload cannot be one that `encode` wrote for such an array. What `out` holds then is
                undefined.
            UnsupportedArray: `out` or `payload` is not such an array.
        """

    def take(self, payload: Bytes, n: int, at: NDArray[np.int64], out: Array, depth: int = 0) -> int:
        """Fill `out` with the values at some positions, decoding no more blocks than it must.

        Args:
            payload: as for `decode`.
            n: number of values in the stream.
            at: int64[k], each 0..n-1, in any order.
            out: [k], contiguous and writeable, of the stream's dtype.
            depth: how many encodings this one lies in.

        Returns:
            How many blocks of 1,024 values, or runs, were decoded; here all, since most encodings know no better. A block
            whose children lie side by side, as planes of bytes or ends and values do, is one.

        Raises:
            CorruptStream: as `decode`.
        """
        whole = np.empty(n, out.dtype)
        self.decode(payload, whole, depth)
        out[:] = whole[at]
        return -(-n // BLOCK_VALUES)

    def erase(self, payload: Bytes, n: int, dtype: np.dtype[Any], at: NDArray[np.int64]) -> None:
        """Overwrite the values at some positions where they lie, so that no bit depends on what they were.

        What is read there afterwards is some value of the dtype, chosen by the encoding. The payload keeps its length
        and all other values. Exists where `in_place` is True; elsewhere the stream is decoded and encoded anew.

        Args:
            payload: uint8[n_bytes], writeable.
            n: number of values in the stream.
            dtype: theirs.
            at: int64[k], distinct, each 0..n-1.

        Raises:
            CannotErase: this encoding, or one of its children, has no place for a single value.
        """
        raise CannotErase(
            f"{self.name}: single values have no place of their own; decode, blank and encode again"
        )

    def parts(
        self, payload: Bytes, n: int, dtype: np.dtype[Any]
    ) -> tuple[tuple[str, int, Bytes, int, np.dtype[Any]], ...]:
        """The children as (what, wire id, payload, number of values, dtype), for tools that show a cascade."""
        return ()


def blocks_touched(at: NDArray[np.int64]) -> int:
    """How many blocks of 1,024 values some positions lie in."""
    return int(np.count_nonzero(np.bincount(at // BLOCK_VALUES)))


def checked(values: Array) -> Array:
    """`values` as a contiguous array, if streams can hold it at all."""
    if values.ndim != 1 or values.dtype not in _DTYPES:
        raise UnsupportedArray(
            f"a stream is a 1-D array of one of {', '.join(map(str, DTYPES))}; got {values.ndim}-D {values.dtype}; "
            "flatten lists and cast other types first"
        )
    if len(values) > MAX_VALUES:
        raise UnsupportedArray(
            f"a stream holds at most {MAX_VALUES} values, got {len(values)}; write several"
        )
    return np.ascontiguousarray(values)


def bits(values: Array) -> Array:
    """The same memory as unsigned integers of the same size: what is written for any dtype."""
    return checked(values).view(f"u{values.dtype.itemsize}")


def ordered(values: Array) -> Array:
    """The same memory as the integers whose order keeps ranges narrow: signed stay signed, all else is unsigned."""
    return checked(values) if values.dtype.kind == "i" else bits(values)


def checked_target(payload: Bytes, out: Array) -> Array:
    """`out` as unsigned integers, if a decoder can fill it from `payload`."""
    if payload.ndim != 1 or payload.dtype != np.uint8 or not payload.flags.c_contiguous:
        raise UnsupportedArray(f"a payload is a contiguous uint8 array, got {payload.ndim}-D {payload.dtype}")
    if out.ndim != 1 or out.dtype not in _DTYPES or not out.flags.c_contiguous or not out.flags.writeable:
        raise UnsupportedArray(
            "values are decoded into a 1-D, contiguous, writeable array of one of "
            f"{', '.join(map(str, DTYPES))}; got {out.ndim}-D {out.dtype}"
        )
    return out.view(f"u{out.dtype.itemsize}")


def checked_bools(out: Array, encoding: str) -> None:
    """Refuse bytes other than 0 and 1 in an array of bools: numpy's behaviour on them is undefined."""
    if out.dtype.kind == "b" and out.view(np.uint8).max(initial=0) > 1:
        raise CorruptStream(f"{encoding}: a bool stream held a value other than 0 and 1; read another copy")


def refuse_encode(encoding: str, why: str) -> CannotEncode:
    """The error for values that `encoding` cannot write."""
    return CannotEncode(
        f"{encoding} cannot write these values: {why}; ask can_encode first, or select.choose"
    )
